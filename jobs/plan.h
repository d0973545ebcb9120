/*
 * The plan: spec + arch → segments, sample ranges, training numbers, tasks, peak bytes, hash. Pure
 * arithmetic over what the files say; it needs neither MPI nor a device. What cannot fit, cannot be read
 * or makes no sense is refused here, before anything is started (design: "fails early").
 */
#ifndef QY_JOBS_PLAN_H
#define QY_JOBS_PLAN_H

#include "jobs/spec.h"
#include "jobs/task.h"
#include "model/arch.h"
#include "model/weights.h"

enum { QY_MAX_SEGMENTS = 1024, QY_CAPTURE_RANGES = 16, QY_EVALUATE_RANGES = 8 };

/* Ranges of a walk through the model, however little there is to do: some for several workers. */
enum { QY_LEAST_CAPTURE_RANGES = 4, QY_LEAST_EVALUATE_RANGES = 2 };

typedef enum {
    QY_TIME_TOKENS,
    QY_TIME_CAPTURE,
    QY_TIME_QUANTIZE,
    QY_TIME_STITCH,
    QY_TIME_FINAL_NORM,
    QY_TIME_E2E_QP,
    QY_TIME_EVALUATE,
    QY_TIME_EXPORT,
    QY_N_TIME_PHASES
} qy_time_phase_t;

/* What is estimated before a run (jobs/plan_time.h); device empty: nothing was. */
typedef struct {
    char device[128], source[128]; /* whose speeds, and from where */
    double phase_s[QY_N_TIME_PHASES];
    /* What a worker asks of its scratch disk, reading and writing together, over a block: on average, while
     * it trains, while a stream walks (0: they fit into memory); and the shares of the block's time
     * that those two take. */
    double stream_bytes_per_s, train_bytes_per_s, walk_bytes_per_s, train_share, walk_share;
    double walk_s; /* of both streams through a block */
} qy_plan_time_t;

typedef struct {
    qy_spec_t spec;
    qy_arch_t arch;
    char hash[65];      /* of what changes the result, segments included */
    char *canonical;    /* the JSON that was hashed; owned */
    int64_t n_workers;  /* known when the plan was first written */
    /* SHA-256 of text content, tokenizer and sequence length of each evaluate entry: not in the hash, so
     * results of a text are kept and looked up by this. */
    char eval_digest[QY_MAX_EVALUATE][65];

    int64_t n_segments;
    int64_t segment_start[QY_MAX_SEGMENTS + 1]; /* ⌊k N / S⌋ */

    int64_t n_samples;    /* training + validation windows of calibration; 0: the method needs none (rtn) */
    int64_t n_ranges;     /* capture ranges over n_samples; 0: nothing to capture (one segment, or rtn) */
    int64_t e2e_samples, e2e_length; /* 0 without the phase */
    bool e2e_own_text;    /* its text is not the calibration's, by content */
    int64_t n_e2e_ranges; /* distill: capture of the teacher's final states; else 0 */

    int64_t group;        /* columns per group; −1 in the spec means each row's own length: 0 here */
    struct {
        int64_t steps_per_epoch, steps; /* per block */
        double weight_lr, quant_lr, norm_lr; /* resolved peak rates */
    } block_ap;
    struct {
        int64_t steps_per_epoch, steps; /* per round of blocks */
        int64_t search_samples;         /* resolved */
    } qllm;
    struct {
        int64_t steps_per_epoch, steps, warmup;
        double lr; /* resolved peak rate */
    } e2e;

    /* Peak bytes, one worker. cpu_bytes, gpu_bytes: what the device computes with, measured by
     * worker/memory.h (0 before, and for a device that resources.device rules out); host_bytes:
     * beside it; stream_bytes: both streams of a segment; disk: the run directory as a whole, but
     * for saved streams (jobs/plan_time.h). */
    int64_t element_bytes; /* of an activation; on a device yet unknown the CPU's, which needs more */
    int64_t cpu_bytes, gpu_bytes, host_bytes, stream_bytes, disk_bytes;

    qy_plan_time_t time; /* not hashed */
} qy_plan_t;

/*
 * Makes the plan: opens model, tokenizer and texts (tokenizes nothing, but digests the files), checks
 * everything that can be known before a run. n_workers ≥ 1. Leaves nothing behind.
 */
qy_status_t qy_plan_make(qy_plan_t **out, const qy_spec_t *spec, int64_t n_workers, qy_error_t *err);
void qy_plan_destroy(qy_plan_t **plan);

/* Takes over what a run that is there has recorded, as its segments where they are auto; ARG where it
 * is another run. Nothing is written. */
qy_status_t qy_plan_continue(qy_plan_t *plan, qy_error_t *err);

/* Writes job.yaml, plan.json and the model's config.json into the run directory; the plan recorded
 * there must have this hash, else ARG with the keys that differ. With an existing plan its segments
 * and n_workers are taken over into *plan before hashes are compared, where the spec says segments:
 * auto. */
qy_status_t qy_plan_record(qy_plan_t *plan, qy_error_t *err);

/* Reads back what qy_plan_record wrote (a task's child does), also where the folder has moved, or
 * the checkpoint. Digests no file again. FORMAT for a foreign or torn file, and for a job.yaml that
 * is not the plan's. */
qy_status_t qy_plan_load(qy_plan_t **out, const char *run_dir, qy_error_t *err);

/* Opens the checkpoint that was planned with; QY_ERR_FORMAT where another lies there now. */
qy_status_t qy_plan_open_model(qy_model_t **out, const qy_plan_t *plan, qy_error_t *err);

/* For people: blocks, segments, tasks, peak bytes. */
void qy_plan_print(const qy_plan_t *plan, FILE *file);

/* "2.5 h", "3.1 min", "12.0 s" */
void qy_plan_seconds_text(char out[32], double seconds);

/* "1.5 GiB" */
void qy_plan_bytes_text(char out[32], int64_t bytes);

/* Segment that block belongs to. */
int64_t qy_plan_segment_of(const qy_plan_t *plan, int64_t block);

/* Ranges that the windows of an evaluation text are cut into, by their work, at most QY_EVALUATE_RANGES:
 * each reads the embedding and every block anew. */
int64_t qy_plan_evaluate_ranges(const qy_plan_t *plan, int64_t n_windows, int64_t length);
/* Ranges that the training samples are cut into to fit the last norm (qllm.final_norm); 0 where it
 * stays the checkpoint's. */
int64_t qy_plan_norm_ranges(const qy_plan_t *plan);

/* Range r of n items in R ranges: [⌊r n/R⌋, ⌊(r+1) n/R⌋); empty where r is none of them. */
void qy_plan_range(int64_t n, int64_t n_ranges, int64_t r, int64_t *first, int64_t *count);

/*
 * Learning rate of step t = 0…S−1 of a block, by peak rate p.
 *   unit step   p (1/20 + 19/40 (1 + cos(π t/S))), whose sum is p (0.525 S + 0.475)
 *   absolute    the published recursion: p at t = 0, then with m = p/20 and c(t) = 1 + cos(π t/S)
 *               m + (p − m) c(t)²/(2 c(t−1)), which is m at t = S
 * Source: EfficientQAT, arXiv:2407.11062, as its official code computes it.
 */
double qy_block_ap_rate(const qy_plan_t *plan, double peak, int64_t t);
/* Of step t = 0…S−1 of a round: lr (1 − t/S). */
double qy_qllm_rate(const qy_plan_t *plan, int64_t t);
/*
 * Of E2E-QP's update k = 0…S−1, by the plan's peak rate p and W = ⌈0.03 S⌉ updates of warmup:
 *   k < W   p (k+1)/W; absolute, as published: p k/W
 *   else    p (1 + cos(π (k−W)/max(1, S−W)))/2
 */
double qy_e2e_rate(const qy_plan_t *plan, int64_t k);

/* Whether the formats that spec.export_format names hold what the plan makes of this model; ARG or
 * UNSUPPORTED with the format's name and the reason. */
qy_status_t qy_plan_check_exports(const qy_plan_t *plan, const qy_model_t *model, qy_error_t *err);

#endif
