# Flags of our own code, and one static library per room.
add_library(quarry_flags INTERFACE)
target_include_directories(quarry_flags INTERFACE ${PROJECT_SOURCE_DIR})
target_compile_definitions(quarry_flags INTERFACE _POSIX_C_SOURCE=200809L _DEFAULT_SOURCE _FILE_OFFSET_BITS=64)
set(warnings -Wall -Wextra -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wshadow -Wvla)
if(QUARRY_WERROR)
  list(APPEND warnings -Werror)
endif()
# -ffp-contract=off: a*b+c is rounded the same in every build; -fopenmp-simd adds only what a pragma asks for.
target_compile_options(quarry_flags INTERFACE
  $<$<COMPILE_LANGUAGE:C>:${warnings} -ffp-contract=off -fno-math-errno -fopenmp-simd>)
if(QUARRY_SANITIZE)
  target_compile_options(quarry_flags INTERFACE $<$<COMPILE_LANGUAGE:C>:-fsanitize=address,undefined
    -fno-sanitize-recover=undefined -fno-omit-frame-pointer>)
  target_link_options(quarry_flags INTERFACE -fsanitize=address,undefined)
elseif(CMAKE_BUILD_TYPE MATCHES "Rel")
  target_compile_options(quarry_flags INTERFACE
    $<$<COMPILE_LANGUAGE:C>:-fstack-protector-strong -D_FORTIFY_SOURCE=2>)
  target_link_options(quarry_flags INTERFACE -Wl,-z,relro,-z,now)
endif()

# quarry_room(NAME [FOLDERS sub…] LINK targets…): every .c of the room's folder and of the named ones.
function(quarry_room name)
  cmake_parse_arguments(ROOM "" "" "FOLDERS;LINK" ${ARGN})
  set(patterns ${PROJECT_SOURCE_DIR}/${name}/*.c)
  foreach(folder IN LISTS ROOM_FOLDERS)
    list(APPEND patterns ${PROJECT_SOURCE_DIR}/${name}/${folder}/*.c)
  endforeach()
  file(GLOB sources CONFIGURE_DEPENDS ${patterns})
  if(NOT sources)
    add_library(qy_${name} INTERFACE)
    target_link_libraries(qy_${name} INTERFACE ${ROOM_LINK} quarry_flags)
    return()
  endif()
  add_library(qy_${name} STATIC ${sources})
  target_link_libraries(qy_${name} PUBLIC ${ROOM_LINK} PRIVATE quarry_flags)
endfunction()
