// Which instruction set the kernels run on. Chosen once from what the processor reports; tests may choose a lower one.
#pragma once

#include <string>
#include <vector>

namespace edgead {

// Names of the instruction sets built in that this processor has, best first.
std::vector<std::string> instruction_sets();

std::string instruction_set();

// Throws std::invalid_argument for a name that instruction_sets() does not hold.
void use_instruction_set(const std::string& name);

}  // namespace edgead
