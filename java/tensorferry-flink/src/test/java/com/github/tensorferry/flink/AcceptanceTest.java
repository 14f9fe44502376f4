package com.github.tensorferry.flink;

import static com.github.tensorferry.flink.internal.FakeFerry.until;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertTrue;

import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.LongStream;
import org.apache.flink.api.common.JobStatus;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.streaming.api.datastream.AsyncDataStream;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.util.CloseableIterator;
import org.junit.jupiter.api.Tag;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/**
 * The acceptance criteria of FLINK-39629, with a real ferry in front of mock sidecars. The test
 * integration/flinkjava starts them, and says where they are in system properties: one ferry with a
 * fast model "model", which doubles, a slow one, "slow", which takes 300 ms for each batch, and
 * "counted", whose rows the test in Go counts.
 */
@Tag("ferry")
@Timeout(120)
class AcceptanceTest {
  private final String endpoint = System.getProperty("ferry");

  /** The codec of the mock: a number, twice. */
  private static final class Twice implements TensorCodec<Long, Long> {
    private static final long serialVersionUID = 1;

    @Override
    public void encode(Long in, RowWriter row) {
      row.input("x").floats(in);
    }

    @Override
    public Long decode(Long in, RowReader row) {
      return (long) row.output("y").floats().get(0);
    }
  }

  private static StreamExecutionEnvironment env() {
    Configuration c = new Configuration();
    c.setString("restart-strategy.type", "none");
    c.setString("rest.bind-address", "127.0.0.1");
    c.setString("rest.address", "127.0.0.1");
    return StreamExecutionEnvironment.createLocalEnvironment(1, c);
  }

  private SidecarOptions options(String model) {
    return new SidecarOptions(endpoint).model(model);
  }

  @SuppressWarnings("try")
  private static <T> List<T> collect(DataStream<T> s) throws Exception {
    List<T> all = new ArrayList<>();
    try (CloseableIterator<T> i = s.executeAndCollect()) {
      i.forEachRemaining(all::add);
    }
    return all;
  }

  private static List<Long> twice(long n) {
    return LongStream.rangeClosed(1, n).mapToObj(v -> 2 * v).collect(Collectors.toList());
  }

  /** Reads a gauge of the ferry or of the mock. */
  private static double gauge(String property, String name) {
    try (InputStream in = new URL("http://" + System.getProperty(property) + "/metrics")
        .openStream()) {
      double sum = 0;
      for (String line : new String(in.readAllBytes(), StandardCharsets.UTF_8).split("\n")) {
        if (line.startsWith(name + "{") || line.startsWith(name + " ")) {
          sum += Double.parseDouble(line.substring(line.lastIndexOf(' ')));
        }
      }
      return sum;
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  private static void nothingIsConnected() throws Exception {
    until("no client at the ferry",
        () -> gauge("ferry.health", "tensorferry_ferry_connections") == 0);
    until("no connection at the mock sidecar",
        () -> gauge("mock.health", "tensorferry_sidecar_connections") == 0);
  }

  @Test
  void orderedOutputIsDeterministic() throws Exception {
    for (int run = 0; run < 3; run++) {
      StreamExecutionEnvironment env = env();
      env.enableCheckpointing(50);
      assertEquals(twice(20_000), collect(GpuSidecar.orderedWait(
          env.fromSequence(1, 20_000), new Twice(), options("model"), Types.LONG)));
      env = env();
      assertEquals(twice(20_000), collect(AsyncDataStream.orderedWait(
          env.fromSequence(1, 20_000), new GpuSidecarAsyncFunction<>(options("model"), new Twice()),
          60_000, TimeUnit.MILLISECONDS, 1000).returns(Types.LONG)));
    }
    nothingIsConnected();
  }

  @Test
  void aTimeoutIsAsDocumented() throws Exception {
    StreamExecutionEnvironment env = env();
    SingleOutputStreamOperator<Long> results = GpuSidecar.orderedWait(env.fromSequence(1, 3),
        new Twice(), options("slow").timeout(Duration.ofMillis(50)).onError("timeout", "dead_letter"),
        Types.LONG);
    List<Tuple2<Long, Failure>> dead =
        collect(results.getSideOutput(GpuSidecar.deadLetters(Types.LONG)));
    assertEquals(3, dead.size());
    for (Tuple2<Long, Failure> d : dead) {
      assertEquals("timeout", d.f1.failureClass);
      assertTrue(d.f1.text.contains("no answer within the timeout (50ms)"), d.f1.text);
    }
    nothingIsConnected();
  }

  /** The mock's log, which the test in Go reads, has never more rows at once than the capacity. */
  @Test
  void aCapacityIsAsDocumented() throws Exception {
    StreamExecutionEnvironment env = env();
    assertEquals(twice(35), collect(GpuSidecar.orderedWait(
        env.fromSequence(1, 35), new Twice(), options("counted").capacity(7), Types.LONG)));
    nothingIsConnected();
  }

  @Test
  void cancellingLeavesNoConnection() throws Exception {
    StreamExecutionEnvironment env = env();
    env.enableCheckpointing(50);
    GpuSidecar.unorderedWait(env.fromSequence(1, Long.MAX_VALUE), new Twice(), options("slow"),
        Types.LONG).map(v -> v).returns(Types.LONG).print().name("nowhere");
    JobClient job = env.executeAsync();
    until("calls in progress",
        () -> gauge("ferry.health", "tensorferry_ferry_in_flight_calls") > 0);
    job.cancel().get();
    until("it is cancelled", () -> job.getJobStatus().join() == JobStatus.CANCELED);
    nothingIsConnected();
  }
}
