# Models in CMake projects, compiled when the project is built:
#
#    find_package(sofie REQUIRED)               # cmake -Dsofie_DIR=$(sofie --cmakedir) ...
#    sofie_add_model(higgs models/higgs.onnx DIMS batch=1)
#    target_link_libraries(app PRIVATE higgs)   # #include "higgs.hxx"
#
# The command `sofie` is needed when building, and nothing when running. SOFIE_EXECUTABLE names another one.

if(NOT SOFIE_EXECUTABLE)
   # that of the environment which this file is installed in comes first: ENV/lib/pythonX/site-packages/sofie/share/...
   get_filename_component(_sofie_environment "${CMAKE_CURRENT_LIST_DIR}/../../../../../../.." ABSOLUTE)
   find_program(SOFIE_EXECUTABLE sofie
      HINTS "${_sofie_environment}/bin" "${_sofie_environment}/Scripts"
      DOC "The command sofie, which compiles models")
endif()
if(NOT SOFIE_EXECUTABLE)
   set(sofie_FOUND FALSE)
   set(sofie_NOT_FOUND_MESSAGE "the command sofie is on no path; set SOFIE_EXECUTABLE to it")
   return()
endif()

# sofie_add_model(TARGET MODEL [NAME name] [DIMS batch=1 ...] [SET input=value ...] [WEIGHTS embed|file]
#                 [OPTIONS --cpu x86-64-v3 ...])
#
# An interface library TARGET, and sofie::TARGET, whose users include NAME.hxx; NAME is TARGET where it is not given. The
# header is written into the build folder, and again when the model or the command changes. WEIGHTS embed, the default,
# puts the weights into the program; with file, the program finds them where they were built, and elsewhere as
# SOFIE_WEIGHTS_PATH says. The property SOFIE_WEIGHTS of the target is that file, to be installed.
function(sofie_add_model target model)
   cmake_parse_arguments(PARSE_ARGV 2 arg "" "NAME;WEIGHTS" "DIMS;SET;OPTIONS")
   if(arg_UNPARSED_ARGUMENTS)
      message(FATAL_ERROR "sofie_add_model(${target}): unknown arguments: ${arg_UNPARSED_ARGUMENTS}")
   endif()
   set(name "${target}")
   if(arg_NAME)
      set(name "${arg_NAME}")
   endif()
   if(NOT name MATCHES "^[A-Za-z][A-Za-z0-9]*(_[A-Za-z0-9]+)*$")
      message(FATAL_ERROR "sofie_add_model(${target}): ${name} is no name for C++; give one with NAME")
   endif()
   set(weights embed)
   if(arg_WEIGHTS)
      set(weights "${arg_WEIGHTS}")
   endif()
   if(NOT weights MATCHES "^(embed|file)$")
      message(FATAL_ERROR "sofie_add_model(${target}): WEIGHTS is embed or file, not ${weights}")
   endif()
   get_filename_component(source "${model}" ABSOLUTE)
   if(NOT EXISTS "${source}")
      message(FATAL_ERROR "sofie_add_model(${target}): there is no model ${source}")
   endif()

   set(folder "${CMAKE_CURRENT_BINARY_DIR}/sofie/${target}")
   set(command "${SOFIE_EXECUTABLE}" compile "${source}" -o "${folder}" --name "${name}" --weights ${weights})
   foreach(dim IN LISTS arg_DIMS)
      list(APPEND command --dim "${dim}")
   endforeach()
   foreach(value IN LISTS arg_SET)
      list(APPEND command --set "${value}")
   endforeach()
   set(outputs "${folder}/${name}.hxx")
   if(weights STREQUAL file)
      list(APPEND outputs "${folder}/${name}.dat")
   endif()
   add_custom_command(
      OUTPUT ${outputs}
      COMMAND ${command} ${arg_OPTIONS}
      DEPENDS "${source}" "${SOFIE_EXECUTABLE}"
      COMMENT "Compiling the model ${model}"
      VERBATIM)
   add_custom_target(${target}_model DEPENDS ${outputs})

   add_library(${target} INTERFACE)
   add_library(sofie::${target} ALIAS ${target})
   add_dependencies(${target} ${target}_model)
   target_include_directories(${target} INTERFACE "${folder}")
   target_compile_features(${target} INTERFACE cxx_std_17)
   if("--threads" IN_LIST arg_OPTIONS)
      find_package(Threads REQUIRED)
      target_link_libraries(${target} INTERFACE Threads::Threads)
   endif()
   if(weights STREQUAL file)
      target_compile_definitions(${target} INTERFACE "SOFIE_${name}_WEIGHTS=\"${folder}/${name}.dat\"")
      set_target_properties(${target} PROPERTIES SOFIE_WEIGHTS "${folder}/${name}.dat")
   endif()
   if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
      message(WARNING "sofie_add_model(${target}): the compiler is not told to optimise, which makes models 9 to "
         "21 times slower: configure with -DCMAKE_BUILD_TYPE=Release")
   endif()
endfunction()
