"""Recovery: LoRA adapters that win back what sparsity loses, trained by distillation. See README.md."""
