/* SPDX-FileCopyrightText: Copyright (c) 2026 The kmoe authors
 * SPDX-License-Identifier: Apache-2.0 WITH LLVM-exception
 *
 * A loadable object of GNU make. make turns every failure of a recipe into its own exit status 2,
 * but `make exec` shall return what its command returns: loading this replaces the make process by
 *   $(kmoe_exec_program) bash -c $(kmoe_exec_command)
 * which keeps its standard streams, its process id and so its exit status. Returns only on failure;
 * then make goes on with the ordinary recipe.
 */
#include <sys/resource.h>
#include <unistd.h>

extern char* gmk_expand(char const* text);

int plugin_is_GPL_compatible; /* make asks for it */

int kmoe_make_exec(void) {
  char* const program = gmk_expand("$(kmoe_exec_program)");
  char* const command = gmk_expand("$(kmoe_exec_command)");
  char* const stack = gmk_expand("$(kmoe_exec_stack)");
  struct rlimit limit;
  if (!program || !command || !stack) return 1;
  /* make has raised its own stack limit and lowers it again only for its children. */
  if (*stack >= '0' && *stack <= '9' && getrlimit(RLIMIT_STACK, &limit) == 0) {
    rlim_t kib = 0;
    char const* digit = stack;
    for (; *digit >= '0' && *digit <= '9'; ++digit) kib = 10 * kib + (rlim_t)(*digit - '0');
    limit.rlim_cur = kib * 1024;
    setrlimit(RLIMIT_STACK, &limit);
  }
  execl(program, program, "bash", "-c", command, (char*)0);
  return 1;
}
