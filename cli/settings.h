/* Settings that libraries read as they are loaded, before main: they take a restart. */
#ifndef QY_CLI_SETTINGS_H
#define QY_CLI_SETTINGS_H

/* Sets what the user has left open, and starts this program anew where that was something. */
void qy_settings_apply(char **argv);

#endif
