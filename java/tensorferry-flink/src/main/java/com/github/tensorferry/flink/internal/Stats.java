package com.github.tensorferry.flink.internal;

/** What a ferry tells of its work for one subtask, over all connections. */
public final class Stats {
  static final int NUMBERS = 11;

  /** Records that wait for a model server now, and retries so far. */
  public volatile long held;
  public volatile long retries;
  /** Rows and milliseconds of a request, and a record's milliseconds beside it: of late. */
  public volatile double batchRows;
  public volatile double callMillis;
  public volatile double queueMillis;

  /** Takes the numbers of docs/ferry.md. Most count since WELCOME, so their growth matters. */
  void add(long[] before, long[] now) {
    held = now[3];
    retries += now[4] - before[4];
    double requests = now[5] - before[5];
    if (requests > 0) {
      batchRows = (now[6] - before[6]) / requests;
      callMillis = (now[7] - before[7]) / requests / 1000;
    }
    double answers = now[10] - before[10];
    if (answers > 0) {
      queueMillis = Math.max(0, (now[9] - before[9]) / answers / 1000 - callMillis);
    }
  }
}
