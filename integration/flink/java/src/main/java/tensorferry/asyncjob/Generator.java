package tensorferry.asyncjob;

import org.apache.flink.connector.datagen.source.GeneratorFunction;

/** Makes the rows of request number n. */
final class Generator implements GeneratorFunction<Long, Rows> {
  private static final long serialVersionUID = 1;

  private final int batch;
  private final int width;
  private final double perSecond;

  Generator(int batch, int width, double perSecond) {
    this.batch = batch;
    this.width = width;
    this.perSecond = perSecond;
  }

  @Override
  public Rows map(Long n) {
    Rows rows = new Rows();
    rows.first = n * batch;
    rows.due = new long[batch];
    rows.values = new float[batch * width];
    for (int i = 0; i < batch; i++) {
      long record = rows.first + i;
      rows.due[i] = perSecond > 0 ? Pace.due(record, perSecond) : System.nanoTime();
      for (int j = 0; j < width; j++) {
        rows.values[i * width + j] = Rows.value(record, j);
      }
    }
    return rows;
  }
}
