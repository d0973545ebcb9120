/* The verbs of the program, one file each: cli/cmd_<verb>.c. Each gets its own argv (argv[0] the
 * verb). */
#ifndef QY_CLI_VERBS_H
#define QY_CLI_VERBS_H

int qy_cmd_plan(int argc, char **argv);
int qy_cmd_run(int argc, char **argv);
int qy_cmd_submit(int argc, char **argv);
int qy_cmd_status(int argc, char **argv);
int qy_cmd_report(int argc, char **argv);
int qy_cmd_eval(int argc, char **argv);
int qy_cmd_export(int argc, char **argv);
int qy_cmd_import(int argc, char **argv);
int qy_cmd_task(int argc, char **argv); /* hidden: what a worker starts */

#endif
