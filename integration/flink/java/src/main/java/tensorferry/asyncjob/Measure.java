package tensorferry.asyncjob;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.util.Arrays;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.streaming.api.functions.sink.RichSinkFunction;

/**
 * Checks that the results are right and in order, and writes a file with what they took. The first of them count for nothing: the
 * job is not at its speed yet.
 */
final class Measure extends RichSinkFunction<Rows> {
  private static final long serialVersionUID = 1;

  private final int records;
  private final int warm;
  private final int width;
  private final String sidecar;
  private final String file;
  private transient int seen;
  private transient long[] latencies;
  private transient long start;
  private transient long ownCPU;
  private transient long sidecarCPU;

  Measure(int records, int warm, int width, String sidecar, String file) {
    this.records = records;
    this.warm = warm;
    this.width = width;
    this.sidecar = sidecar;
    this.file = file;
  }

  @Override
  public void open(Configuration parameters) {
    latencies = new long[records - warm];
  }

  @Override
  public void invoke(Rows rows, Context context) throws IOException {
    long now = System.nanoTime();
    for (int i = 0; i < rows.due.length; i++) {
      if (rows.first + i != seen) {
        throw new IllegalStateException("record " + (rows.first + i) + " where " + seen + " is due");
      }
      double want = 0;
      for (int j = 0; j < width; j++) {
        want += Rows.value(seen, j);
      }
      if (rows.sums[i] != want) {
        throw new IllegalStateException("record " + seen + ": " + rows.sums[i] + ", not " + want);
      }
      if (seen == warm) {
        start = now;
        ownCPU = ticks("self");
        sidecarCPU = ticks(sidecar);
      }
      if (seen >= warm) {
        latencies[seen - warm] = now - rows.due[i];
      }
      seen++;
    }
  }

  @Override
  public void finish() throws IOException {
    if (seen != records) {
      throw new IllegalStateException(seen + " of " + records + " records");
    }
    long nanos = System.nanoTime() - start;
    long own = ticks("self") - ownCPU;
    long other = ticks(sidecar) - sidecarCPU;
    Arrays.sort(latencies);
    // Whoever waits for the file must not read a part of it.
    Path part = Path.of(file + ".new");
    Files.writeString(
        part,
        String.format(
            "{\"Records\": %d, \"Nanos\": %d, \"P50\": %d, \"P99\": %d, \"Ticks\": %d, \"SidecarTicks\": %d}",
            latencies.length, nanos, quantile(0.5), quantile(0.99), own, other));
    Files.move(part, Path.of(file), StandardCopyOption.ATOMIC_MOVE);
  }

  private long quantile(double q) {
    return latencies[(int) (q * (latencies.length - 1))];
  }

  /** The time that a process has had from the processors, in the system's ticks. */
  private static long ticks(String process) throws IOException {
    String stat = Files.readString(Path.of("/proc", process, "stat"));
    // The name is in parentheses and may contain anything.
    String[] fields = stat.substring(stat.lastIndexOf(')') + 2).split(" ");
    return Long.parseLong(fields[11]) + Long.parseLong(fields[12]);
  }
}
