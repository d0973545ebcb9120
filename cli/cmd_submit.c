/* quarry submit: a job for Slurm, which requeues itself until it is done. */
#include <errno.h>
#include <inttypes.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/batch.h"
#include "cli/door.h"
#include "cli/estimate.h"
#include "cli/verbs.h"
#include "coordinator/lock.h"
#include "jobs/plan_time.h"
#include "jobs/spec_path.h"
#include "worker/memory.h"

extern char **environ;

/* CPUs for a rank with a GPU: it reads and widens weights, and moves activations. */
enum { GPU_RANK_CPUS = 4 };

/* Exit code of a shell that does not find a command. */
enum { NO_COMMAND = 127 };

typedef struct {
    const char *job, *nodes, *gpus, *ranks, *cpus, *idle, *launcher;
    const char *overrides[QY_DOOR_LIST + 1];
    int n_overrides, dry_run;
    char **sbatch; /* what stands after "--" */
    int n_sbatch;
} request_t;

static qy_status_t read_numbers(qy_batch_t *b, const request_t *r, qy_error_t *err)
{
    QY_TRY(qy_door_count("--nodes", r->nodes, &b->nodes, err));
    QY_TRY(qy_door_count("--gpus-per-node", r->gpus, &b->gpus, err));
    QY_TRY(qy_door_count("--ranks-per-node", r->ranks, &b->ranks, err));
    QY_TRY(qy_door_count("--cpus-per-rank", r->cpus, &b->cpus, err));
    QY_TRY(qy_door_count("--attempts", r->idle, &b->max_idle, err));
    if (!b->gpus && !b->ranks)
        return qy_fail(err, QY_ERR_ARG,
                       "--gpus-per-node is needed (one rank for each GPU), or --ranks-per-node for "
                       "resources.device: cpu");
    b->ranks = b->ranks ? b->ranks : b->gpus;
    if (strcmp(r->launcher, "srun") == 0)
        b->launcher = QY_LAUNCH_SRUN;
    else if (strcmp(r->launcher, "mpirun") != 0)
        return qy_fail(err, QY_ERR_ARG, "--launcher: \"%s\"; mpirun or srun", r->launcher);
    return QY_OK;
}

/* Ranks that ask Slurm for GPUs are to use them, and to say so where they find none. */
static qy_status_t settle_device(const qy_spec_t *spec, qy_batch_t *b, request_t *r,
                                 qy_error_t *err)
{
    const char *device = spec->resources.device;
    if (b->gpus && strcmp(device, "cpu") == 0)
        return qy_fail(err, QY_ERR_ARG,
                       "resources.device is cpu: --ranks-per-node instead of --gpus-per-node");
    if (!b->gpus && strcmp(device, "cuda") == 0)
        return qy_fail(err, QY_ERR_ARG, "resources.device is cuda: --gpus-per-node is needed");
    if (b->gpus && b->ranks > b->gpus)
        return qy_fail(err, QY_ERR_ARG, "%" PRId64 " ranks a node for %" PRId64 " GPUs", b->ranks,
                       b->gpus);
    if (strcmp(device, "auto") == 0)
        r->overrides[r->n_overrides++] = b->gpus ? "resources.device=cuda" : "resources.device=cpu";
    if (!b->cpus)
        b->cpus = spec->resources.threads ? spec->resources.threads : b->gpus ? GPU_RANK_CPUS : 0;
    return QY_OK;
}

static qy_status_t make_plan(qy_plan_t **plan, qy_batch_t *b, request_t *r, qy_error_t *err)
{
    qy_spec_t *spec = malloc(sizeof *spec);
    if (!spec)
        return qy_fail(err, QY_ERR_MEMORY, "out of memory");
    qy_status_t status = qy_spec_read(spec, r->job, r->overrides, r->n_overrides, err);
    if (status == QY_OK)
        status = settle_device(spec, b, r, err);
    if (status == QY_OK) /* once more, with the device */
        status = qy_spec_read(spec, r->job, r->overrides, r->n_overrides, err);
    if (status == QY_OK)
        status = qy_plan_make(plan, spec, b->nodes * b->ranks, err);
    if (status == QY_OK)
        status = qy_plan_continue(*plan, err);
    if (status == QY_OK)
        status = qy_memory_plan(*plan, err);
    if (status == QY_OK) {
        qy_estimate(*plan);
        status = qy_plan_check_saves(*plan, err);
    }
    free(spec);
    return status;
}

/* Its absolute path, under its own name: paths in it are read from the folder that it is named in,
 * also where it is a link to a file elsewhere. */
static qy_status_t job_path(char out[QY_PATH_MAX], const char *job, qy_error_t *err)
{
    char folder[QY_PATH_MAX];
    const char *slash = strrchr(job, '/');
    QY_TRY(qy_spec_base(folder, job, err));
    return qy_path(out, err, "%s/%s", strcmp(folder, "/") == 0 ? "" : folder,
                   slash ? slash + 1 : job);
}

/* The script with the paths of this process; the caller frees. */
static qy_status_t make_script(qy_batch_t *b, const request_t *r, char **script, qy_error_t *err)
{
    char program[QY_PATH_MAX] = "", folder[QY_PATH_MAX], job[QY_PATH_MAX];
    qy_status_t status = job_path(job, r->job, err);
    if (status == QY_OK && readlink("/proc/self/exe", program, sizeof program - 1) < 0)
        status = qy_fail(err, QY_ERR_IO, "/proc/self/exe: %s", strerror(errno));
    if (status == QY_OK)
        status = qy_spec_base(folder, NULL, err);
    b->program = program;
    b->folder = folder;
    b->job = job;
    b->overrides = r->overrides;
    b->n_overrides = r->n_overrides;
    if (status == QY_OK)
        status = qy_batch_script(b, script, err);
    return status;
}

static qy_status_t write_files(qy_plan_t *plan, const char *path, const char *script,
                               qy_error_t *err)
{
    char folder[QY_PATH_MAX], attempts[QY_PATH_MAX];
    QY_TRY(qy_path(folder, err, "%s/slurm", plan->spec.run_dir));
    QY_TRY(qy_path(attempts, err, "%s/attempts", folder));
    QY_TRY(qy_make_dirs(folder, err));
    QY_TRY(qy_plan_record(plan, err));
    unlink(attempts);
    return qy_file_write(path, script, strlen(script), err);
}

/* The lock is that of a Slurm job on another host, which is over by Slurm's word: it is only still
 * warm. */
static bool is_left_over(const char *run_dir)
{
    char command[128], answer[8];
    qy_lock_holder_t holder;
    if (!qy_lock_inspect(run_dir, &holder) || !holder.slurm_job[0] ||
        strspn(holder.slurm_job, "0123456789") != strlen(holder.slurm_job))
        return false;
    snprintf(command, sizeof command,
             "squeue -h -j %s -t RUNNING,SUSPENDED,COMPLETING -o %%i 2>/dev/null",
             holder.slurm_job);
    FILE *squeue = popen(command, "r");
    if (!squeue)
        return false;
    bool at_work = fgets(answer, sizeof answer, squeue);
    int code = pclose(squeue);
    return !at_work && !(WIFEXITED(code) && WEXITSTATUS(code) == NO_COMMAND);
}

/* Plan and script into the run directory, where no run is at work: its tasks read the plan anew.
 * fresh: nobody else's; then nothing is left behind by a failure. */
static qy_status_t record(qy_plan_t *plan, const char *path, const char *script, int fresh,
                          qy_error_t *err)
{
    qy_lock_t *lock = NULL;
    qy_status_t status = qy_lock_take(&lock, plan->spec.run_dir, err);
    if (status != QY_OK && !is_left_over(plan->spec.run_dir))
        return status;
    status = write_files(plan, path, script, err);
    qy_lock_release(&lock);
    if (status != QY_OK && fresh)
        qy_remove_tree(plan->spec.run_dir, NULL);
    return status;
}

/* sbatch [options] script; its messages and its exit code are the user's. */
static int run_sbatch(const request_t *r, const char *path)
{
    qy_error_t err = {0};
    int state, failed;
    pid_t pid;
    char **argv = calloc((size_t)r->n_sbatch + 3, sizeof *argv);
    if (!argv) {
        qy_fail(&err, QY_ERR_MEMORY, "out of memory");
        return qy_door_error(&err, QY_EXIT_FAILED);
    }
    argv[0] = "sbatch";
    memcpy(argv + 1, r->sbatch, (size_t)r->n_sbatch * sizeof *argv);
    argv[r->n_sbatch + 1] = (char *)(uintptr_t)path;
    fflush(NULL);
    failed = posix_spawnp(&pid, "sbatch", NULL, NULL, argv, environ);
    free(argv);
    if (failed) {
        qy_fail(&err, QY_ERR_IO, "sbatch: %s", strerror(failed));
        return qy_door_error(&err, QY_EXIT_FAILED);
    }
    while (waitpid(pid, &state, 0) < 0 && errno == EINTR)
        continue;
    return WIFEXITED(state) ? WEXITSTATUS(state) : QY_EXIT_FAILED;
}

static int submit(request_t *r, qy_batch_t *b)
{
    char path[QY_PATH_MAX], *script = NULL;
    qy_error_t err = {0};
    qy_plan_t *plan = NULL;
    int code = QY_EXIT_OK, fresh = 0;
    qy_status_t status = read_numbers(b, r, &err);
    if (status == QY_OK)
        status = make_plan(&plan, b, r, &err);
    b->plan = plan;
    if (status == QY_OK)
        status = make_script(b, r, &script, &err);
    if (status == QY_OK)
        status = qy_batch_path(path, plan, &err);
    if (status == QY_OK)
        fresh = !qy_file_exists(plan->spec.run_dir);
    if (status == QY_OK && r->dry_run) {
        fputs(script, stdout);
    } else if (status == QY_OK) {
        status = record(plan, path, script, fresh, &err);
        code = status == QY_OK ? run_sbatch(r, path) : QY_EXIT_INPUT;
        if (code == QY_EXIT_OK)
            printf("run directory %s, output slurm/job-*.out in it\n", plan->spec.run_dir);
        else if (fresh && status == QY_OK) /* nothing was started: leave nothing behind */
            qy_remove_tree(plan->spec.run_dir, NULL);
    }
    free(script);
    qy_plan_destroy(&plan);
    return status == QY_OK ? code : qy_door_error(&err, QY_EXIT_INPUT);
}

int qy_cmd_submit(int argc, char **argv)
{
    request_t r = {.nodes = "1", .idle = "3", .launcher = "mpirun"};
    qy_batch_t batch = {0};
    int n_words, own = 0;
    const qy_option_t options[] = {
        {.name = "--nodes", .help = "N  nodes (1)", .value = &r.nodes},
        {.name = "--gpus-per-node", .help = "G  one rank for each", .value = &r.gpus},
        {.name = "--ranks-per-node", .help = "R  for resources.device: cpu", .value = &r.ranks},
        {.name = "--cpus-per-rank",
         .help = "C  (resources.threads; 4 with a GPU)",
         .value = &r.cpus},
        {.name = "--launcher",
         .help = "mpirun|srun  inside the job (mpirun)",
         .value = &r.launcher},
        {.name = "--attempts",
         .help = "N  starts in a row that may bring nothing before it gives up (3)",
         .value = &r.idle},
        {.name = "--set",
         .help = "KEY.PATH=VALUE  replaces a key of the job; may be repeated",
         .list = r.overrides,
         .n_list = &r.n_overrides},
        {.name = "--dry-run",
         .help = "print the script; write and send nothing",
         .flag = &r.dry_run},
    };
    while (own < argc && strcmp(argv[own], "--") != 0)
        own++;
    r.sbatch = argv + own + (own < argc);
    r.n_sbatch = argc - own - (own < argc);
    int code = qy_door_options(
        own, argv, "submit JOB.yaml --nodes N --gpus-per-node G [options] [-- sbatch options]",
        options, sizeof options / sizeof *options, &r.job, 1, &n_words);
    if (code == QY_EXIT_INPUT && own == argc)
        fprintf(stderr, "sbatch's own options stand behind \"--\", at the end\n");
    if (code >= 0)
        return code;
    if (n_words != 1) {
        fprintf(stderr, "quarry submit: one JOB.yaml is needed\n");
        return QY_EXIT_INPUT;
    }
    return submit(&r, &batch);
}
