package com.github.tensorferry.flink;

import static com.github.tensorferry.flink.internal.FakeFerry.until;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.github.tensorferry.flink.internal.FakeFerry;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.concurrent.Executors;
import java.util.concurrent.ScheduledExecutorService;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.stream.Collectors;
import java.util.stream.LongStream;
import org.apache.flink.api.common.JobStatus;
import org.apache.flink.api.common.RuntimeExecutionMode;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.core.execution.JobClient;
import org.apache.flink.streaming.api.datastream.AsyncDataStream;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;
import org.apache.flink.util.CloseableIterator;
import org.apache.flink.util.ExceptionUtils;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** Whole jobs on a Flink cluster in this process. */
@Timeout(180)
class JobTest {
  private final ScheduledExecutorService timer = Executors.newScheduledThreadPool(1);
  private FakeFerry ferry;

  @BeforeEach
  void start() throws Exception {
    ferry = new FakeFerry();
  }

  @AfterEach
  void stop() throws Exception {
    until("no connection", () -> ferry.open() == 0);
    ferry.close();
    timer.shutdownNow();
    until("no thread", () -> Thread.getAllStackTraces().keySet().stream()
        .noneMatch(t -> t.getName().startsWith("tensorferry")));
  }

  private static StreamExecutionEnvironment env(int restarts) {
    Configuration c = new Configuration();
    c.setString("restart-strategy.type", restarts > 0 ? "fixed-delay" : "none");
    c.setString("restart-strategy.fixed-delay.attempts", "" + restarts);
    c.setString("restart-strategy.fixed-delay.delay", "1 ms");
    c.setString("rest.bind-address", "127.0.0.1");
    c.setString("rest.address", "127.0.0.1");
    StreamExecutionEnvironment env = StreamExecutionEnvironment.createLocalEnvironment(1, c);
    env.getConfig().enableObjectReuse();
    return env;
  }

  private SidecarOptions options() {
    return new SidecarOptions(ferry.endpoint()).model("tenfold");
  }

  @SuppressWarnings("try")
  private static <T> List<T> collect(DataStream<T> s) throws Exception {
    List<T> all = new ArrayList<>();
    try (CloseableIterator<T> i = s.executeAndCollect()) {
      i.forEachRemaining(all::add);
    }
    return all;
  }

  private static List<Long> tenfold(long n) {
    return LongStream.rangeClosed(1, n).mapToObj(v -> 10 * v).collect(Collectors.toList());
  }

  /** Answers late, and in an order of its own. */
  private void answerAtRandom(long seed) {
    Random random = new Random(seed);
    ferry.script = (c, call) -> timer.schedule(() -> {
      call.answer();
      return null;
    }, random.nextInt(4000), TimeUnit.MICROSECONDS);
  }

  @Test
  void orderedOutputIsTheSameInEveryRun() throws Exception {
    for (int seed = 1; seed <= 3; seed++) {
      answerAtRandom(seed);
      FakeFerry.Script random = ferry.script;
      int run = seed;
      int before = ferry.calls.size();
      boolean[] failed = new boolean[2];
      ferry.script = (c, call) -> {
        // In each run a call fails, so that the job starts again, and a connection is lost.
        if (!failed[0] && ferry.calls.size() - before > 500 * run) {
          failed[0] = true;
          c.fail(call.id, 0, 0, "INTERNAL", "no luck");
        } else if (!failed[1] && ferry.calls.size() - before > 700 * run) {
          failed[1] = true;
          c.close();
        } else {
          random.call(c, call);
        }
      };
      StreamExecutionEnvironment env = env(5);
      env.enableCheckpointing(20);
      assertEquals(tenfold(3000), collect(GpuSidecar.orderedWait(
          env.fromSequence(1, 3000), new Tenfold(), options().capacity(50), Types.LONG)));
      assertTrue(failed[0] && failed[1]);
    }
  }

  @Test
  void unorderedAndKeyedHaveEachResultOnce() throws Exception {
    for (boolean keyed : new boolean[] {false, true}) {
      answerAtRandom(5);
      FakeFerry.Script random = ferry.script;
      int before = ferry.calls.size();
      boolean[] failed = new boolean[1];
      ferry.script = (c, call) -> {
        if (!failed[0] && ferry.calls.size() - before > 700) {
          failed[0] = true;
          c.fail(call.id, 0, 0, "INTERNAL", "no luck");
        } else {
          random.call(c, call);
        }
      };
      StreamExecutionEnvironment env = env(5);
      env.enableCheckpointing(20);
      DataStream<Long> in = env.fromSequence(1, 2000);
      List<Long> got = collect(keyed
          ? GpuSidecar.keyedWait(in.keyBy(v -> v % 7), new Tenfold(), options(), Types.LONG)
              .setParallelism(2)
          : GpuSidecar.unorderedWait(in, new Tenfold(), options(), Types.LONG));
      if (keyed) {
        for (long k = 0; k < 7; k++) {
          long key = k;
          List<Long> of =
              got.stream().filter(v -> v / 10 % 7 == key).collect(Collectors.toList());
          List<Long> sorted = new ArrayList<>(of);
          sorted.sort(null);
          assertEquals(sorted, of);
        }
      }
      got.sort(null);
      assertEquals(tenfold(2000), got);
      assertTrue(failed[0]);
    }
  }

  @Test
  void batchMode() throws Exception {
    answerAtRandom(3);
    StreamExecutionEnvironment env = env(0);
    env.setRuntimeMode(RuntimeExecutionMode.BATCH);
    assertEquals(tenfold(500), collect(GpuSidecar.orderedWait(
        env.fromSequence(1, 500), new Tenfold(), options().capacity(20), Types.LONG)));
    env = env(0);
    env.setRuntimeMode(RuntimeExecutionMode.BATCH);
    List<Long> got = collect(GpuSidecar.keyedWait(env.fromSequence(1, 500).keyBy(v -> v % 3),
        new Tenfold(), options(), Types.LONG));
    got.sort(null);
    assertEquals(tenfold(500), got);
  }

  @Test
  @SuppressWarnings("deprecation")
  void oldKindsOfSources() throws Exception {
    StreamExecutionEnvironment env = env(0);
    List<Long> in = LongStream.rangeClosed(1, 300).boxed().collect(Collectors.toList());
    assertEquals(tenfold(300), collect(GpuSidecar.orderedWait(env.fromCollection(in, Types.LONG),
        new Tenfold(), options().capacity(5), Types.LONG)));
  }

  @Test
  void json() throws Exception {
    ferry.script = (c, call) -> c.send(17, call.id,
        new String(call.row).replace("}", ",\"digit\":1}").getBytes());
    StreamExecutionEnvironment env = env(0);
    List<String> got = collect(GpuSidecar.orderedWait(
        env.fromSequence(1, 3).map(v -> "{\"n\":" + v + "}").returns(Types.STRING),
        new JsonMapping().output("label", "digit"), options(), Types.STRING));
    assertEquals(List.of("{\"n\":1,\"digit\":1}", "{\"n\":2,\"digit\":1}", "{\"n\":3,\"digit\":1}"),
        got);
    assertTrue(ferry.connection(0).hello.contains("\"form\":\"json\""));
  }

  @Test
  void functionForFlinksOwnOperator() throws Exception {
    answerAtRandom(9);
    FakeFerry.Script random = ferry.script;
    boolean[] failed = new boolean[1];
    ferry.script = (c, call) -> {
      if (!failed[0] && ferry.calls.size() > 700) {
        failed[0] = true;
        c.fail(call.id, 0, 0, "INTERNAL", "no luck");
      } else {
        random.call(c, call);
      }
    };
    StreamExecutionEnvironment env = env(5);
    env.enableCheckpointing(20);
    assertEquals(tenfold(2000), collect(AsyncDataStream.orderedWait(env.fromSequence(1, 2000),
        new GpuSidecarAsyncFunction<>(ferry.endpoint(), Duration.ofSeconds(1), 100, new Tenfold()),
        30, TimeUnit.SECONDS, 100).returns(Types.LONG)));
    assertTrue(ferry.connection(0).hello.contains("\"timeout\":\"1000ms\""));
  }

  @Test
  void functionDropsAndFails() throws Exception {
    ferry.script = (c, call) -> {
      if (call.value() == 2) {
        c.fail(call.id, 1, 0, "INTERNAL", "drop me");
      } else {
        call.answer();
      }
    };
    assertEquals(List.of(10L, 30L), collect(AsyncDataStream.unorderedWait(
        env(0).fromSequence(1, 3).filter(v -> true),
        new GpuSidecarAsyncFunction<>(options(), new Tenfold()), 30, TimeUnit.SECONDS)
        .returns(Types.LONG)).stream().sorted().collect(Collectors.toList()));
    ferry.script = (c, call) -> c.fail(call.id, 0, 1, "INVALID_ARGUMENT", "bad record");
    // A bad record ends the job, whatever the restart strategy says.
    StreamExecutionEnvironment env = env(1_000_000);
    AsyncDataStream.unorderedWait(env.fromSequence(1, 3),
        new GpuSidecarAsyncFunction<>(options(), new Tenfold()), 30, TimeUnit.SECONDS)
        .returns(Types.LONG)
        .sinkTo(new org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink<>());
    Throwable e = assertThrows(Exception.class, () -> env.execute("bad"));
    String all = ExceptionUtils.stringifyException(e);
    assertTrue(all.contains("bad record") && all.contains("not recoverable"), all);
    assertThrows(IllegalArgumentException.class, () -> new GpuSidecarAsyncFunction<>(
        options().onError("record", "dead_letter"), new Tenfold()));
  }

  @Test
  void functionsTimeoutIsFlinks() throws Exception {
    ferry.script = (c, call) -> {};
    Throwable e = assertThrows(Exception.class, () -> collect(AsyncDataStream.unorderedWait(
        env(0).fromSequence(1, 1), new GpuSidecarAsyncFunction<>(options(), new Tenfold()),
        300, TimeUnit.MILLISECONDS).returns(Types.LONG)));
    assertTrue(ExceptionUtils.findThrowable(e, TimeoutException.class).isPresent()
        || ExceptionUtils.stringifyException(e).contains("TimeoutException"));
    until("CANCEL", () -> ferry.connections.get(0).cancelled.size() == 1
        || ferry.connections.get(0).gone);
  }

  @Test
  void aHundredRestartsAndACancelLeaveNothing() throws Exception {
    ferry.script = (c, call) -> {
      if (call.id == 5 && ferry.connections.size() <= 100) {
        c.fail(call.id, 0, 0, "INTERNAL", "no luck");
      } else if (call.id < 20) {
        call.answer();
      }
    };
    StreamExecutionEnvironment env = env(1000);
    env.enableCheckpointing(1000);
    GpuSidecar.unorderedWait(env.fromSequence(1, Long.MAX_VALUE), new Tenfold(),
        options().capacity(10), Types.LONG).map(v -> v).returns(Types.LONG)
        .sinkTo(new org.apache.flink.streaming.api.functions.sink.v2.DiscardingSink<>());
    JobClient job = env.executeAsync("restarts");
    until("restarts", () -> ferry.connections.size() > 100
        && ferry.connections.get(100).answered.size() == 19);
    assertEquals(1, ferry.open());
    job.cancel().get();
    JobStatus[] status = new JobStatus[1];
    until("cancelled", () -> {
      try {
        status[0] = job.getJobStatus().get();
      } catch (Exception e) {
        return true;
      }
      return status[0].isGloballyTerminalState();
    });
    assertEquals(101, ferry.connections.size());
    assertFalse(ferry.connections.get(100).ended, "what was cancelled was not ended in order");
  }
}
