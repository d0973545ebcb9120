#include "coordinator/lock.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/thread.h"

enum { HEARTBEAT_S = 10, STALE_S = 60, LOCK_BYTES_MAX = 4096, TAKE_TRIES = 50 };

/* A process, so that no other one in time or space is the same. */
typedef struct {
    char host[64], boot[40], slurm_job[32];
    int64_t pid, start; /* start: clock ticks since boot, field 22 of /proc/PID/stat */
} identity_t;

struct qy_lock {
    char path[QY_PATH_MAX];
    identity_t self;
    int fd; /* of lock.json as this run made it; its modification time is the heartbeat */
    struct stat made; /* that file */
    bool gone;        /* at the last look nothing had its name */
    bool lost, stop;
    pthread_t thread;
    pthread_mutex_t mutex;
    pthread_cond_t wake;
};

/* First bytes of a small file of /proc, without the newline; empty where it cannot be read. */
static void read_line(const char *path, char *out, size_t size)
{
    out[0] = '\0';
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    ssize_t n = read(fd, out, size - 1);
    out[n > 0 ? n : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    close(fd);
}

/* Start time of a living process, or −1. A zombie is gone: it runs nothing any more. */
static int64_t process_start(int64_t pid)
{
    enum { FIELDS_BEFORE_START = 19 }; /* between state, field 3, and start time, field 22 */
    char path[64], text[1024], state;
    snprintf(path, sizeof path, "/proc/%lld/stat", (long long)pid);
    read_line(path, text, sizeof text);
    char *at = strrchr(text, ')'); /* the name before it may hold spaces and parentheses */
    if (!at || sscanf(at + 1, " %c", &state) != 1 || state == 'Z' || state == 'X')
        return -1;
    at++;
    for (int i = 0; i < FIELDS_BEFORE_START; i++) {
        at += strspn(at, " ");
        at += strcspn(at, " ");
    }
    return strtoll(at, NULL, 10);
}

static void identify_self(identity_t *out)
{
    memset(out, 0, sizeof *out);
    gethostname(out->host, sizeof out->host - 1);
    read_line("/proc/sys/kernel/random/boot_id", out->boot, sizeof out->boot);
    const char *job = getenv("SLURM_JOB_ID");
    snprintf(out->slurm_job, sizeof out->slurm_job, "%s", job ? job : "");
    out->pid = getpid();
    out->start = process_start(out->pid);
}

static void copy_string(char *out, size_t size, json_t *object, const char *key)
{
    const char *value = json_string_value(json_object_get(object, key));
    snprintf(out, size, "%s", value ? value : "");
}

/* Who made the lock file, and when it was renewed. Nobody (all zero) where it is not ours to read.
 * False where there is none. */
static bool read_lock(const char *path, identity_t *who, struct timespec *renewed)
{
    char text[LOCK_BYTES_MAX];
    struct stat st;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t n = fstat(fd, &st) == 0 ? read(fd, text, sizeof text) : -1;
    close(fd);
    memset(who, 0, sizeof *who);
    if (n < 0)
        return false;
    *renewed = st.st_mtim;
    json_t *object = json_loadb(text, (size_t)n, JSON_REJECT_DUPLICATES, NULL);
    copy_string(who->host, sizeof who->host, object, "host");
    copy_string(who->boot, sizeof who->boot, object, "boot");
    copy_string(who->slurm_job, sizeof who->slurm_job, object, "slurm_job");
    who->pid = json_integer_value(json_object_get(object, "pid"));
    who->start = json_integer_value(json_object_get(object, "start"));
    json_decref(object);
    return true;
}

static bool is_live(const identity_t *who, double age_s)
{
    identity_t self;
    identify_self(&self);
    if (strcmp(who->host, self.host) == 0 && strcmp(who->boot, self.boot) == 0)
        return process_start(who->pid) == who->start;
    return age_s < STALE_S;
}

static double seconds_between(struct timespec from, struct timespec to)
{
    return (double)(to.tv_sec - from.tv_sec) + 1e-9 * (double)(to.tv_nsec - from.tv_nsec);
}

/* The lock under a name of this process alone, open. */
static qy_status_t make_temp(const char *temp, const identity_t *self, int *out, struct stat *made,
                             qy_error_t *err)
{
    char now[24];
    qy_utc(now);
    json_t *object = json_pack("{s:s, s:I, s:I, s:s, s:s, s:s}", "host", self->host, "pid",
                               (json_int_t)self->pid, "start", (json_int_t)self->start, "boot",
                               self->boot, "slurm_job", self->slurm_job, "since", now);
    char *text = object ? json_dumps(object, JSON_COMPACT) : NULL;
    json_decref(object);
    if (!text)
        return qy_fail(err, QY_ERR_MEMORY, "%s: its text cannot be made", temp);
    unlink(temp); /* of a dead process that had this pid */
    qy_status_t status = QY_OK;
    int fd = open(temp, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0) {
        status = qy_fail(err, QY_ERR_IO, "%s: open: %s", temp, strerror(errno));
        goto free_text;
    }
    QY_TRY_GOTO(qy_write_all(fd, temp, text, strlen(text), err), close_file);
    if (fsync(fd) != 0 || fstat(fd, made) != 0) {
        status = qy_fail(err, QY_ERR_IO, "%s: fsync: %s", temp, strerror(errno));
        goto close_file;
    }
    *out = fd;
    fd = -1;
close_file:
    if (fd >= 0) {
        close(fd);
        unlink(temp);
    }
free_text:
    free(text);
    return status;
}

static qy_status_t refuse(const char *path, const identity_t *who, double age_s, qy_error_t *err)
{
    char job[48] = "";
    if (who->slurm_job[0])
        snprintf(job, sizeof job, ", Slurm job %s", who->slurm_job);
    return qy_fail(err, QY_ERR_ARG,
                   "%.300s: another run works here: host %s, pid %lld%s, last heartbeat %.0f s ago",
                   path, who->host[0] ? who->host : "unknown", (long long)who->pid, job,
                   age_s > 0 ? age_s : 0.0);
}

typedef enum { OURS, ANOTHER, NOTHING, UNKNOWN } sight_t;

/* What has this name: the file that this run made, or not; UNKNOWN where the file system does not
 * say, as while its server fails over. */
static sight_t look(const qy_lock_t *lock, const char *path)
{
    struct stat there;
    if (stat(path, &there) != 0)
        return errno == ENOENT ? NOTHING : UNKNOWN;
    return lock->made.st_dev == there.st_dev && lock->made.st_ino == there.st_ino ? OURS : ANOTHER;
}

/* link(2) is atomic on shared file systems too, but its answer may be lost: the link is not. */
static bool link_made(const qy_lock_t *lock, const char *temp, const char *path)
{
    return link(temp, path) == 0 || look(lock, path) == OURS;
}

/* Who holds path, and whether that is alive; false where nobody does. Both times are by the file
 * system's clock, so that the hosts' clocks do not matter. */
static bool judge(const qy_lock_t *lock, const char *path, identity_t *who, double *age_s,
                  bool *live)
{
    struct timespec renewed;
    struct stat mine;
    if (fstat(lock->fd, &mine) != 0 || !read_lock(path, who, &renewed))
        return false;
    *age_s = seconds_between(renewed, mine.st_mtim);
    *live = is_live(who, *age_s);
    return true;
}

/*
 * Several runs may see at once that a lock is stale, and none may then remove the fresh one of
 * another: only who holds a second lock, for a moment, removes the first. True: the lock is taken.
 */
static bool take_over(qy_lock_t *lock, const char *temp, const char *second)
{
    const struct timespec moment = {.tv_nsec = 20000000};
    identity_t who;
    double age_s;
    bool live;
    if (!link_made(lock, temp, second)) {
        if (judge(lock, second, &who, &age_s, &live) && !live)
            unlink(second); /* that run died in this very moment */
        else
            nanosleep(&moment, NULL);
        return false;
    }
    if (judge(lock, lock->path, &who, &age_s, &live) && !live)
        unlink(lock->path);
    bool taken = link_made(lock, temp, lock->path);
    unlink(second);
    return taken;
}

static qy_status_t take(qy_lock_t *lock, const char *temp, const char *second, qy_error_t *err)
{
    int call_errno = 0;
    for (int i = 0; i < TAKE_TRIES; i++) {
        identity_t who;
        double age_s;
        bool live;
        qy_status_t status = QY_OK;
        QY_TRY(make_temp(temp, &lock->self, &lock->fd, &lock->made, err));
        bool taken = link_made(lock, temp, lock->path);
        call_errno = errno;
        if (!taken && judge(lock, lock->path, &who, &age_s, &live)) {
            if (live)
                status = refuse(lock->path, &who, age_s, err);
            else
                taken = take_over(lock, temp, second);
        }
        unlink(temp);
        if (taken)
            return QY_OK;
        close(lock->fd);
        QY_TRY(status);
    }
    return qy_fail(err, QY_ERR_IO,
                   "%.300s: cannot be taken: link: %s; does another run hold %.300s?", lock->path,
                   strerror(call_errno), second);
}

/* Renewing goes to the open file, so a lock that was taken over is never touched. A name may be
 * gone for a moment, where a directory is served anew: only twice in a row is it lost. */
void qy_lock_renew(qy_lock_t *lock)
{
    sight_t sight = look(lock, lock->path);
    pthread_mutex_lock(&lock->mutex);
    lock->lost = lock->lost || sight == ANOTHER || (sight == NOTHING && lock->gone);
    lock->gone = sight == NOTHING;
    bool lost = lock->lost;
    pthread_mutex_unlock(&lock->mutex);
    if (!lost)
        (void)futimens(lock->fd, NULL);
}

static void *heartbeat(void *argument)
{
    qy_lock_t *lock = argument;
    pthread_mutex_lock(&lock->mutex);
    while (!lock->stop) {
        if (qy_cond_wait_s(&lock->wake, &lock->mutex, HEARTBEAT_S) != ETIMEDOUT)
            continue;
        pthread_mutex_unlock(&lock->mutex);
        qy_lock_renew(lock);
        pthread_mutex_lock(&lock->mutex);
    }
    pthread_mutex_unlock(&lock->mutex);
    return NULL;
}

static int start_heartbeat(qy_lock_t *lock)
{
    pthread_mutex_init(&lock->mutex, NULL);
    qy_cond_init(&lock->wake);
    return qy_thread_start(&lock->thread, heartbeat, lock);
}

qy_status_t qy_lock_take(qy_lock_t **out, const char *run_dir, qy_error_t *err)
{
    char temp[QY_PATH_MAX], second[QY_PATH_MAX];
    qy_status_t status = QY_OK;
    QY_TRY(qy_make_dirs(run_dir, err));
    qy_lock_t *lock = calloc(1, sizeof *lock);
    if (!lock)
        return qy_fail(err, QY_ERR_MEMORY, "%s: no memory for its lock", run_dir);
    identify_self(&lock->self);
    QY_TRY_GOTO(qy_path(lock->path, err, "%s/lock.json", run_dir), free_lock);
    /* The host is in the names because pids repeat from host to host; swept like every *.tmp.PID.
     */
    QY_TRY_GOTO(qy_path(temp, err, "%s.%s.tmp.%lld", lock->path, lock->self.host,
                        (long long)lock->self.pid),
                free_lock);
    QY_TRY_GOTO(qy_path(second, err, "%s.taking", lock->path), free_lock);
    QY_TRY_GOTO(take(lock, temp, second, err), free_lock);
    int failed = start_heartbeat(lock);
    if (failed) {
        status = qy_fail(err, QY_ERR_MEMORY, "%s: heartbeat: %s", lock->path, strerror(failed));
        goto remove_lock;
    }
    *out = lock;
    return QY_OK;

remove_lock:
    unlink(lock->path);
    close(lock->fd);
free_lock:
    free(lock);
    return status;
}

void qy_lock_release(qy_lock_t **lock)
{
    qy_lock_t *l = *lock;
    if (!l)
        return;
    pthread_mutex_lock(&l->mutex);
    l->stop = true;
    pthread_cond_signal(&l->wake);
    pthread_mutex_unlock(&l->mutex);
    pthread_join(l->thread, NULL);
    if (look(l, l->path) == OURS)
        unlink(l->path);
    pthread_cond_destroy(&l->wake);
    pthread_mutex_destroy(&l->mutex);
    close(l->fd);
    free(l);
    *lock = NULL;
}

bool qy_lock_lost(qy_lock_t *lock)
{
    pthread_mutex_lock(&lock->mutex);
    bool lost = lock->lost;
    pthread_mutex_unlock(&lock->mutex);
    return lost;
}

bool qy_lock_inspect(const char *run_dir, qy_lock_holder_t *out)
{
    char path[QY_PATH_MAX];
    identity_t who;
    struct timespec renewed, now;
    if (qy_path(path, NULL, "%s/lock.json", run_dir) != QY_OK || !read_lock(path, &who, &renewed))
        return false;
    clock_gettime(CLOCK_REALTIME, &now);
    memset(out, 0, sizeof *out);
    memcpy(out->host, who.host, sizeof out->host);
    memcpy(out->slurm_job, who.slurm_job, sizeof out->slurm_job);
    out->pid = who.pid;
    out->age_s = seconds_between(renewed, now);
    out->live = is_live(&who, out->age_s);
    return true;
}
