package com.github.tensorferry.flink.internal;

/** What a ferry tells of its work for one subtask, over all connections. */
public final class Stats {
  static final int NUMBERS = 11;

  /** Records that wait for a model server now. */
  public volatile long held;
  /** Retries so far. */
  public volatile long retries;
  /** Rows in a request, milliseconds in one, and those of a record beside it, in the last second. */
  public volatile double batchRows;
  public volatile double callMillis;
  public volatile double queueMillis;

  /** Takes the numbers of docs/ferry.md. Most count since WELCOME, so the growth is added. */
  void add(long[] before, long[] now) {
    held = now[3];
    retries += now[4] - before[4];
    long requests = now[5] - before[5];
    long answers = now[10] - before[10];
    if (requests > 0) {
      batchRows = (double) (now[6] - before[6]) / requests;
      callMillis = (now[7] - before[7]) / 1000.0 / requests;
    }
    if (answers > 0) {
      double millis = (now[9] - before[9]) / 1000.0 / answers;
      queueMillis = Math.max(0, millis - callMillis);
    }
  }
}
