// What the processor at hand offers, found at run time.
#pragma once

namespace dipc {

enum class InstructionSet { kPortable, kAvx2, kAvx512 };  // kAvx512: F, BW, VL, DQ and VNNI

// The best of this processor, or the lower one that the environment variable DIPC_ISA asks for.
InstructionSet instruction_set();

}  // namespace dipc
