package tensorferry.asyncjob;

/** Some rows for one request: one, unless the job is told otherwise. Flink serializes it as a POJO. */
public class Rows {
  /** Number of the first record. */
  public long first;
  /** When each record was due, in System.nanoTime. */
  public long[] due;
  /** The rows' values, one row after another; null once they are answered. */
  public float[] values;
  /** The model's answer, one value a row; null until then. */
  public double[] sums;

  /** Value i of a record: small whole numbers, so that their sum is exact. */
  static float value(long record, int i) {
    return (record + i) % 256;
  }
}
