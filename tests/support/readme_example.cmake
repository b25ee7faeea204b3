# SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
# SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception

# cmake -D README=... -D EXAMPLE=... -P readme_example.cmake
# The C++ of the README must be the example that is compiled and run, to the letter.
foreach(file README EXAMPLE)
  file(READ "${${file}}" text)
  string(REPLACE ";" "<semicolon>" ${file}_text "${text}")
endforeach()
string(REGEX MATCH "\n```cpp\n(.*)\n```\n\n```cmake" found "${README_text}")
if(NOT found)
  message(FATAL_ERROR "no C++ block followed by a CMake block in ${README}")
endif()
string(FIND "${EXAMPLE_text}" "${CMAKE_MATCH_1}" place)
if(place EQUAL -1)
  message(FATAL_ERROR "the C++ block of ${README} is not part of ${EXAMPLE}")
endif()
