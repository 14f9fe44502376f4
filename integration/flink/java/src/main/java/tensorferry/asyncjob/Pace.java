package tensorferry.asyncjob;

import java.util.concurrent.CompletableFuture;
import java.util.concurrent.CompletionStage;
import java.util.concurrent.TimeUnit;
import org.apache.flink.api.connector.source.util.ratelimit.RateLimiter;

/**
 * Lets records go when they are due: one after another at a fixed rate from the first on, however late those before it were.
 */
final class Pace implements RateLimiter {
  /** When the first record was let go. There is one source in the process, and it begins before it generates. */
  private static volatile long start;

  private final double interval;
  private long next;

  Pace(double perSecond) {
    interval = 1e9 / perSecond;
  }

  /** When a record is due that Pace has let go. */
  static long due(long record, double perSecond) {
    return start + (long) (record * (1e9 / perSecond));
  }

  @Override
  public CompletionStage<Void> acquire() {
    if (next == 0) {
      start = System.nanoTime();
    }
    long wait = start + (long) (next * interval) - System.nanoTime();
    next++;
    if (wait <= 0) {
      return CompletableFuture.completedFuture(null);
    }
    return new CompletableFuture<Void>().completeOnTimeout(null, wait, TimeUnit.NANOSECONDS);
  }
}
