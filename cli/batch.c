#include "cli/batch.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "jobs/plan_time.h"
#include "cli/slurm_template.h" /* made from slurm/job.sbatch.in by CMake */

/* Time that a save may take: Slurm's signal comes so long before the time limit. */
enum { SIGNAL_S = 300 };

/* Beside what the plan counts, a rank holds its program, libraries and messages. */
enum { RANK_EXTRA_MIB = 1024 };
static const double memory_margin = 1.15;

/* Time asked for: so much more than estimated, and not less than this. */
enum { TIME_LEAST_MIN = 30 };
static const double time_margin = 1.5;

static const char *base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash && slash[1] ? slash + 1 : path;
}

/* One word for the shell, whatever it holds. */
static void put_word(FILE *out, const char *text)
{
    fputc('\'', out);
    for (; *text; text++)
        if (*text == '\'')
            fputs("'\\''", out);
        else
            fputc(*text, out);
    fputc('\'', out);
}

/* What a job name may hold, so that squeue's columns and other tools can take it. */
static void put_plain(FILE *out, const char *text)
{
    static const char plain[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    for (; *text; text++)
        fputc(strchr(plain, *text) ? *text : '-', out);
}

static void put_title(FILE *out, const qy_plan_t *plan)
{
    static const char *const method[QY_N_METHODS] = {[QY_METHOD_BLOCK_AP] = "block-ap",
                                                     [QY_METHOD_RTN] = "rtn",
                                                     [QY_METHOD_GPTQ] = "gptq",
                                                     [QY_METHOD_RPTQ] = "rptq",

                                                     [QY_METHOD_QLLM] = "qllm"};
    const qy_spec_t *spec = &plan->spec;
    fprintf(out, "%s w%" PRId64, method[spec->quantize.method], spec->quantize.weights.bits);
    if (plan->group)
        fprintf(out, "g%" PRId64, plan->group);
    fputs(" of ", out);
    put_plain(out, base_name(spec->model));
}

/* A path in an #SBATCH line; a percent sign would begin one of Slurm's patterns. */
static void put_pattern(FILE *out, const char *path)
{
    for (; *path; path++)
        fputs((char[]){*path, *path == '%' ? '%' : '\0', '\0'}, out);
}

static int64_t node_mib(const qy_batch_t *b)
{
    const qy_plan_t *plan = b->plan;
    double bytes = (double)plan->host_bytes + (b->gpus ? 0 : (double)plan->cpu_bytes);
    double rank = memory_margin * bytes / (1 << 20) + RANK_EXTRA_MIB;
    return (int64_t)(rank * (double)b->ranks) + 1;
}

/* The estimate with room for what it does not know; a job that needs more requeues itself. */
static int64_t minutes(const qy_plan_t *plan)
{
    double m = time_margin * qy_plan_total_s(plan) / 60;
    return m < TIME_LEAST_MIN ? TIME_LEAST_MIN : (int64_t)m + 1;
}

static void put_options(FILE *out, const qy_batch_t *b)
{
    fputs("#SBATCH --job-name=quarry-", out);
    put_plain(out, base_name(b->plan->spec.run_dir));
    fputs("\n#SBATCH --comment=\"", out);
    put_title(out, b->plan);
    fprintf(out, "\"\n#SBATCH --nodes=%" PRId64 "\n#SBATCH --ntasks-per-node=%" PRId64 "\n",
            b->nodes, b->ranks);
    if (b->gpus)
        fprintf(out, "#SBATCH --gpus-per-node=%" PRId64 "\n", b->gpus);
    if (b->cpus)
        fprintf(out, "#SBATCH --cpus-per-task=%" PRId64 "\n", b->cpus);
    fprintf(out, "#SBATCH --mem=%" PRId64 "M\n", node_mib(b));
    if (b->plan->time.device[0] && isfinite(qy_plan_total_s(b->plan)))
        fprintf(out, "#SBATCH --time=%" PRId64 "\n", minutes(b->plan));
    fputs("#SBATCH --chdir=\"", out);
    fputs(b->folder, out);
    fputs("\"\n#SBATCH --output=\"", out);
    put_pattern(out, b->plan->spec.run_dir);
    fprintf(out,
            "/slurm/job-%%j.out\"\n#SBATCH --open-mode=append\n#SBATCH --requeue\n#SBATCH "
            "--signal=B:USR1@%d",
            SIGNAL_S);
}

static void put_launcher(FILE *out, const qy_batch_t *b)
{
    if (b->launcher == QY_LAUNCH_MPIRUN) {
        fputs("mpirun --bind-to none", out);
        return;
    }
    fputs("srun --mpi=pmix --kill-on-bad-exit=1 --cpu-bind=none", out);
    if (b->cpus) /* since 22.05 a step does not take this over from its job */
        fprintf(out, " --cpus-per-task=%" PRId64, b->cpus);
}

static void put_command(FILE *out, const qy_batch_t *b)
{
    put_word(out, b->program);
    fputs(" run ", out);
    put_word(out, b->job);
    for (int i = 0; i < b->n_overrides; i++) {
        fputs(" --set ", out);
        put_word(out, b->overrides[i]);
    }
}

static void put_version(FILE *out, const qy_batch_t *b)
{
    (void)b;
    fputs(QUARRY_VERSION, out);
}

static void put_run_dir(FILE *out, const qy_batch_t *b)
{
    put_word(out, b->plan->spec.run_dir);
}

static void put_quoted_title(FILE *out, const qy_batch_t *b)
{
    fputc('\'', out);
    put_title(out, b->plan);
    fputc('\'', out);
}

static void put_blocks(FILE *out, const qy_batch_t *b)
{
    fprintf(out, "%" PRId64, b->plan->arch.n_blocks);
}

static void put_max_idle(FILE *out, const qy_batch_t *b)
{
    fprintf(out, "%" PRId64, b->max_idle);
}

static const struct {
    const char *name; /* as it stands in the template */
    void (*put)(FILE *out, const qy_batch_t *b);
} values[] = {
    {"@VERSION@", put_version},    {"@OPTIONS@", put_options},   {"@RUN_DIR@", put_run_dir},
    {"@TITLE@", put_quoted_title}, {"@BLOCKS@", put_blocks},     {"@MAX_IDLE@", put_max_idle},
    {"@COMMAND@", put_command},    {"@LAUNCHER@", put_launcher},
};
enum { N_VALUES = sizeof values / sizeof *values };

/* The template with its @NAME@ replaced; any other @ stands for itself. */
static void put_script(FILE *out, const qy_batch_t *b)
{
    for (const char *at = slurm_template; *at;) {
        int i = 0;
        while (i < N_VALUES && strncmp(at, values[i].name, strlen(values[i].name)) != 0)
            i++;
        if (i < N_VALUES) {
            values[i].put(out, b);
            at += strlen(values[i].name);
        } else {
            fputc(*at++, out);
        }
    }
}

static qy_status_t check_quotable(const char *what, const char *path, qy_error_t *err)
{
    for (const char *c = path; *c; c++)
        if ((unsigned char)*c < ' ' || strchr("\"'\\`$", *c))
            return qy_fail(err, QY_ERR_ARG,
                           "%s: %s: Slurm's options cannot hold quotes, backslashes, dollar signs "
                           "or control characters",
                           what, path);
    return QY_OK;
}

qy_status_t qy_batch_script(const qy_batch_t *batch, char **text, qy_error_t *err)
{
    char *bytes = NULL;
    size_t n = 0;
    QY_TRY(check_quotable("run_dir", batch->plan->spec.run_dir, err));
    QY_TRY(check_quotable("current folder", batch->folder, err));
    FILE *out = open_memstream(&bytes, &n);
    if (!out)
        return qy_fail(err, QY_ERR_MEMORY, "batch script: out of memory");
    put_script(out, batch);
    int failed = ferror(out);
    if (fclose(out) != 0 || failed) {
        free(bytes);
        return qy_fail(err, QY_ERR_MEMORY, "batch script: out of memory");
    }
    *text = bytes;
    return QY_OK;
}

qy_status_t qy_batch_path(char out[QY_PATH_MAX], const qy_plan_t *plan, qy_error_t *err)
{
    return qy_path(out, err, "%s/slurm/job.sbatch", plan->spec.run_dir);
}
