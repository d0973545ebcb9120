/* Times. Only for people and for metrics: no result depends on them. */
#ifndef QY_BASE_CLOCK_H
#define QY_BASE_CLOCK_H

/* Seconds of a clock that only goes forward. */
double qy_now_s(void);

/* UTC as "2026-11-22T12:00:00Z". */
void qy_utc(char out[24]);

#endif
