/*
 * The two streams of a segment: the target through full-precision blocks, the input through
 * finished quantized ones. A restart finds them where they were: in this node's scratch, else as
 * they were last saved to the run directory, else they are recomputed from the segment's start;
 * sample by sample, so that what a crash has torn is recomputed alone.
 */
#ifndef QY_WORKER_SEGMENT_STREAMS_H
#define QY_WORKER_SEGMENT_STREAMS_H

#include "worker/run_task.h"
#include "worker/streams_save.h"

typedef struct {
    const qy_work_t *work;
    qy_forward_t *forward;
    int64_t segment, first; /* its first block */
    qy_stream_t *target, *input;
    double advance_s; /* of walks since the last save: what a restart elsewhere would repeat */
    qy_streams_save_t *save; /* going on; NULL where none is */
    int64_t saved_at;        /* in front of which block the input stands in it */
    double waited_s;         /* for saves, before a stream could go on */
} qy_segment_streams_t;

/* Opens them for work on this block of the segment, the first one that is not finished. forward is
 * used for every walk and outlives them. */
qy_status_t qy_segment_streams_open(qy_segment_streams_t *s, const qy_work_t *work,
                                    qy_forward_t *forward, int64_t segment, int64_t block,
                                    qy_error_t *err);
/* finished: the segment is, so scratch and saves are removed. NULL streams are fine. */
void qy_segment_streams_close(qy_segment_streams_t *s, int finished);

/* Removes what is left of segments whose blocks are all there: of one that was killed at its very
 * end, and of those that were finished on other nodes. Scratch is this node's, saves are the run's.
 */
void qy_segment_streams_sweep(const qy_plan_t *plan);

/* Brings every sample of both in front of this block; loads weights into forward as it needs them.
 */
qy_status_t qy_segment_streams_bring(qy_segment_streams_t *s, int64_t block, qy_error_t *err);

/* One of the streams through the block whose weights are in forward. */
qy_status_t qy_segment_streams_pass(qy_segment_streams_t *s, qy_stream_t *stream, int64_t block,
                                    qy_error_t *err);

/*
 * Begins to save both in the midst of this block, where walks of checkpoint.recompute_minutes would
 * be lost without: the input in front of it, the target in front of the next one or, where blocks
 * are looked at as it passes, of this. Goes on beside the work; a pass waits until its stream is
 * saved. The save before is removed once this one is whole. What cannot be saved is logged: the run
 * goes on.
 */
void qy_segment_streams_save(qy_segment_streams_t *s, int64_t block);

/* Seconds that the work has waited for disks. */
double qy_segment_streams_stall_s(const qy_segment_streams_t *s);

#endif
