/*
 * Hours, estimated from a plan's counts and a device's speeds: pure arithmetic, outside the plan
 * hash. Written into plan.json before the run, for `status` to compare.
 */
#ifndef QY_JOBS_PLAN_TIME_H
#define QY_JOBS_PLAN_TIME_H

#include "jobs/plan.h"
#include "jobs/speed.h"

/* "tokens", "capture", …: the names of the run's phases. */
const char *qy_time_phase_name(qy_time_phase_t phase);

/*
 * Fills plan->time. Texts are judged by their first quarter megabyte. Errors only where a text or
 * the tokenizer cannot be read.
 */
qy_status_t qy_plan_estimate(qy_plan_t *plan, const qy_speed_t *speed, qy_error_t *err);

/* Sum over the phases, s; 0 where there is no estimate. */
double qy_plan_total_s(const qy_plan_t *plan);

/* Room that saved streams take in the run directory at most, the old ones while new ones are
 * written; 0 where by the estimate no restart would have to repeat more than
 * checkpoint.recompute_minutes. */
int64_t qy_plan_saves_bytes(const qy_plan_t *plan);

/* ARG where the run directory's disk has no room for them beside the run's files; where the pace is
 * not known neither is whether they will be. */
qy_status_t qy_plan_check_saves(const qy_plan_t *plan, qy_error_t *err);

/* Share of a block's time that the device waits for a scratch disk of so many bytes/s. */
double qy_plan_stream_wait(const qy_plan_time_t *time, double disk);

/* Multiplications and additions, counted apart, that n tokens in windows of length cost in one
 * block, forward; attention is causal. */
double qy_block_flops(const qy_arch_t *arch, double n, double length);
/* The same of logits: final norm and loss are left out. */
double qy_head_flops(const qy_arch_t *arch, double n);

/* Seconds that GPTQ or RPTQ adds to what every method does with a block. */
double qy_plan_rounding_s(const qy_plan_t *plan, const qy_speed_t *speed);

#endif
