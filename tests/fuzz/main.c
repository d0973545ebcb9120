/* Replays files, and all files of folders, through a fuzz target. */
#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "base/file.h"
#include "tests/fuzz/fuzz.h"

enum { LARGEST = 64 << 20 };

static int replay_file(const char *path)
{
    char *data = NULL;
    size_t size = 0;
    qy_error_t err;
    if (qy_file_read(path, LARGEST, &data, &size, &err) != QY_OK) {
        fprintf(stderr, "%s\n", err.text);
        exit(1);
    }
    LLVMFuzzerTestOneInput((const uint8_t *)data, size);
    free(data);
    return 1;
}

static int replay(const char *path)
{
    DIR *dir = opendir(path);
    int n = 0;
    if (!dir)
        return replay_file(path);
    for (struct dirent *entry; (entry = readdir(dir)) != NULL;) {
        char inside[QY_PATH_MAX];
        if (entry->d_name[0] == '.' || qy_path(inside, NULL, "%s/%s", path, entry->d_name) != QY_OK)
            continue;
        n += replay(inside);
    }
    closedir(dir);
    return n;
}

int main(int argc, char **argv)
{
    int n = 0;
    for (int i = 1; i < argc; i++)
        n += replay(argv[i]);
    printf("%d files\n", n);
    return n > 0 ? 0 : 1;
}
