"""An example plug-in: each module beside this one is a plug-in file, each .yaml a device."""
