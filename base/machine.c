#include "base/machine.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

/* A limit's file holds a number or "max". Version 1 writes a number near 2^63 where there is none,
 * which is more than any machine has. */
static double read_limit(const char *path)
{
    char text[32] = "", *end = text;
    FILE *file = fopen(path, "re");
    if (!file)
        return INFINITY;
    double limit = fgets(text, sizeof text, file) ? strtod(text, &end) : 0;
    fclose(file);
    return end != text && limit > 0 ? limit : INFINITY;
}

/* Of the group and those above it up to the root, which in a container is all that there is to see.
 */
static double least_limit(const char *root, char *group, const char *name)
{
    char path[QY_PATH_MAX];
    double least = INFINITY;
    for (;;) {
        if (qy_path(path, NULL, "%s%s/%s", root, group, name) == QY_OK)
            least = fmin(least, read_limit(path));
        char *slash = strrchr(group, '/');
        if (!slash)
            return least;
        *slash = '\0';
    }
}

/* Is "memory" one of the controllers, "cpu,memory"? */
static int has_memory(const char *controllers)
{
    static const char word[] = "memory";
    size_t length = sizeof word - 1;
    for (const char *at = controllers; (at = strstr(at, word)); at += length)
        if ((at == controllers || at[-1] == ',') && (at[length] == ',' || at[length] == '\0'))
            return 1;
    return 0;
}

/* A line "4:memory:/group" (version 1), "0::/group" (version 2). */
static double limit_of_line(char *line, const char *root)
{
    char memory[QY_PATH_MAX];
    char *controllers = strchr(line, ':'),
         *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group)
        return INFINITY;
    *group++ = '\0';
    group[strcspn(group, "\n")] = '\0';
    if (controllers[1] == '\0')
        return least_limit(root, group, "memory.max");
    if (!has_memory(controllers + 1) || qy_path(memory, NULL, "%s/memory", root) != QY_OK)
        return INFINITY;
    return least_limit(memory, group, "memory.limit_in_bytes");
}

double qy_cgroup_memory(const char *own, const char *root)
{
    char line[QY_PATH_MAX];
    double least = INFINITY;
    FILE *file = fopen(own, "re");
    while (file && fgets(line, sizeof line, file))
        least = fmin(least, limit_of_line(line, root));
    if (file)
        fclose(file);
    return least;
}

double qy_machine_memory(void)
{
    double all = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE);
    return fmin(all, qy_cgroup_memory("/proc/self/cgroup", "/sys/fs/cgroup"));
}
