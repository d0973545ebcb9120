/* What this process may use of the machine that it runs on. */
#ifndef QY_BASE_MACHINE_H
#define QY_BASE_MACHINE_H

/* Bytes of memory: the machine's, or what the cgroups that this process is in leave of it (a Slurm
 * job's
 * --mem, a container's limit). */
double qy_machine_memory(void);

/* The least limit of memory, bytes, of the cgroups that a file like /proc/self/cgroup names and of
 * those above them, looked up below a folder like /sys/fs/cgroup, version 1 and 2; INFINITY where
 * none is set. */
double qy_cgroup_memory(const char *own, const char *root);

#endif
