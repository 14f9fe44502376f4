package com.github.tensorferry.flink;

import static com.github.tensorferry.flink.internal.FakeFerry.until;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.github.tensorferry.flink.GpuSidecar.Order;
import com.github.tensorferry.flink.internal.FakeFerry;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Random;
import java.util.stream.Collectors;
import java.util.stream.LongStream;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.common.typeutils.base.LongSerializer;
import org.apache.flink.runtime.checkpoint.OperatorSubtaskState;
import org.apache.flink.runtime.execution.SuppressRestartsException;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.watermarkstatus.WatermarkStatus;
import org.apache.flink.streaming.util.AbstractStreamOperatorTestHarness;
import org.apache.flink.streaming.util.KeyedOneInputStreamOperatorTestHarness;
import org.apache.flink.streaming.util.OneInputStreamOperatorTestHarness;
import org.apache.flink.util.ExceptionUtils;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The operator in Flink's own harness, against a ferry that does what the test says. */
@Timeout(60)
class SidecarOperatorTest {
  private final List<AbstractStreamOperatorTestHarness<?>> harnesses = new ArrayList<>();
  private FakeFerry ferry;

  @BeforeEach
  void start() throws Exception {
    ferry = new FakeFerry();
  }

  @AfterEach
  void stop() throws Exception {
    for (AbstractStreamOperatorTestHarness<?> h : harnesses) {
      h.close();
    }
    until("no connection", () -> ferry.open() == 0);
    ferry.close();
    until("no thread", () -> Thread.getAllStackTraces().keySet().stream()
        .noneMatch(t -> t.getName().startsWith("tensorferry")));
  }

  private SidecarOptions options() {
    return new SidecarOptions(ferry.endpoint()).model("tenfold");
  }

  private SidecarOperator.Factory<Long, Long> factory(SidecarOptions o, Order order) {
    return new SidecarOperator.Factory<>(
        new Tenfold(), o, order, GpuSidecar.deadLetters(Types.LONG), false);
  }

  private OneInputStreamOperatorTestHarness<Long, Long> harness(
      SidecarOptions o, Order order, int parallelism, int subtask) throws Exception {
    OneInputStreamOperatorTestHarness<Long, Long> h = new OneInputStreamOperatorTestHarness<>(
        factory(o, order), 128, parallelism, subtask);
    h.getStreamConfig().setupNetworkInputs(LongSerializer.INSTANCE);
    h.getStreamConfig().serializeAllConfigs();
    harnesses.add(h);
    h.setup(LongSerializer.INSTANCE);
    return h;
  }

  private OneInputStreamOperatorTestHarness<Long, Long> opened(
      SidecarOptions o, Order order) throws Exception {
    OneInputStreamOperatorTestHarness<Long, Long> h = harness(o, order, 1, 0);
    h.open();
    return h;
  }

  /** Keys are the last digits. */
  private KeyedOneInputStreamOperatorTestHarness<Long, Long, Long> keyed(
      Order order, int parallelism, int subtask) throws Exception {
    KeyedOneInputStreamOperatorTestHarness<Long, Long, Long> h =
        new KeyedOneInputStreamOperatorTestHarness<>(
            factory(options(), order), v -> v % 10, Types.LONG, 128, parallelism, subtask);
    h.getStreamConfig().setupNetworkInputs(LongSerializer.INSTANCE);
    h.getStreamConfig().serializeAllConfigs();
    harnesses.add(h);
    h.setup(LongSerializer.INSTANCE);
    return h;
  }

  private static List<Long> values(AbstractStreamOperatorTestHarness<Long> h) {
    return new ArrayList<>(h.extractOutputValues());
  }

  private static List<Long> tenfold(long from, long to) {
    return LongStream.rangeClosed(from, to).mapToObj(v -> 10 * v).collect(Collectors.toList());
  }

  /** Runs mails until there is so much output. */
  private static void output(AbstractStreamOperatorTestHarness<Long> h, int n) throws Exception {
    long end = System.nanoTime() + 30_000_000_000L;
    while (h.getOutput().size() < n) {
      assertTrue(System.nanoTime() < end, "output: " + h.getOutput());
      mails(h);
      Thread.sleep(1);
    }
    assertEquals(n, h.getOutput().size(), () -> "output: " + h.getOutput());
  }

  private static void mails(AbstractStreamOperatorTestHarness<Long> h) throws Exception {
    while (h.getTaskMailbox().hasMail()) {
      h.getTaskMailbox().take(0).run();
    }
  }

  @Test
  void orderedWhateverTheOrderOfAnswers() throws Exception {
    ferry.script = (c, call) -> {};
    OneInputStreamOperatorTestHarness<Long, Long> h = opened(options(), Order.ORDERED);
    for (long v = 1; v <= 6; v++) {
      h.processElement(v, 100 + v);
      if (v == 3) {
        h.processWatermark(103);
      }
    }
    ferry.awaitCalls(6);
    for (int i : new int[] {5, 1, 3, 2, 4}) {
      ferry.calls.get(i).answer();
    }
    until("mail", () -> h.getTaskMailbox().hasMail());
    mails(h);
    assertEquals(0, h.getOutput().size());
    ferry.calls.get(0).answer();
    output(h, 7);
    List<Object> want = new ArrayList<>();
    for (long v = 1; v <= 6; v++) {
      want.add(new StreamRecord<>(10 * v, 100 + v));
    }
    want.add(3, new Watermark(103));
    assertEquals(want, new ArrayList<>(h.getOutput()));
  }

  @Test
  void unorderedBetweenWatermarks() throws Exception {
    ferry.script = (c, call) -> {};
    OneInputStreamOperatorTestHarness<Long, Long> h = opened(options(), Order.UNORDERED);
    h.processWatermark(1);
    assertEquals(1, h.getOutput().size());
    h.processElement(1L, 1);
    h.processElement(2L, 2);
    h.processWatermark(2);
    h.processWatermark(3);
    h.processWatermarkStatus(WatermarkStatus.IDLE);
    h.processElement(new StreamRecord<>(3L));
    h.processElement(4L, 4);
    ferry.awaitCalls(4);
    ferry.calls.get(3).answer();
    ferry.calls.get(1).answer();
    output(h, 2);
    ferry.calls.get(0).answer();
    output(h, 6);
    ferry.calls.get(2).answer();
    output(h, 7);
    assertEquals(List.of(new Watermark(1), new StreamRecord<>(20L, 2), new StreamRecord<>(10L, 1),
        new Watermark(3), WatermarkStatus.IDLE, new StreamRecord<>(40L, 4), new StreamRecord<>(30L)),
        new ArrayList<>(h.getOutput()));
  }

  @Test
  void keyedInTheOrderOfEachKey() throws Exception {
    ferry.script = (c, call) -> {};
    KeyedOneInputStreamOperatorTestHarness<Long, Long, Long> h = keyed(Order.KEYED, 1, 0);
    h.open();
    for (long v : new long[] {11, 21, 12, 31, 22}) {
      h.processElement(v, 0);
    }
    ferry.awaitCalls(5);
    ferry.calls.get(4).answer();
    ferry.calls.get(3).answer();
    ferry.calls.get(1).answer();
    ferry.calls.get(2).answer();
    output(h, 2);
    assertEquals(List.of(120L, 220L), values(h));
    ferry.calls.get(0).answer();
    output(h, 5);
    assertEquals(List.of(120L, 220L, 110L, 210L, 310L), values(h));
  }

  @Test
  void randomHistoriesKeepTheirRules() throws Exception {
    long seed = System.nanoTime();
    Random random = new Random(seed);
    for (int round = 0; round < 300; round++) {
      Order order = Order.values()[round % 3];
      ResultQueue<Long, Long> q = new ResultQueue<>();
      List<ResultQueue.Entry<Long, Long>> open = new ArrayList<>();
      List<Object> in = new ArrayList<>();
      List<Object> out = new ArrayList<>();
      for (int step = 0; step < 60 || !open.isEmpty(); step++) {
        int what = step < 60 ? random.nextInt(5) : 4;
        if (what < 2) {
          long v = in.size();
          Object key = order == Order.UNORDERED ? null : order == Order.ORDERED ? "" : v % 3;
          open.add(new ResultQueue.Entry<>(v, 0, key));
          q.add(open.get(open.size() - 1));
          in.add(v);
        } else if (what == 2) {
          in.add("mark" + in.size());
          q.mark(in.get(in.size() - 1));
        } else if (!open.isEmpty()) {
          q.done(open.remove(random.nextInt(open.size())));
        }
        for (Object o; (o = q.poll()) != null; ) {
          out.add(o instanceof ResultQueue.Entry ? ((ResultQueue.Entry<?, ?>) o).in : o);
        }
      }
      String history = "seed " + seed + " " + order + ": " + in + " gave " + out;
      assertEquals(0, q.size(), history);
      // A mark right behind another one has replaced it.
      List<Object> due = new ArrayList<>();
      for (int i = 0; i < in.size(); i++) {
        if (in.get(i) instanceof Long || i + 1 == in.size() || in.get(i + 1) instanceof Long) {
          due.add(in.get(i));
        } else if (out.contains(in.get(i))) {
          due.add(in.get(i));
        }
      }
      assertEquals(due.size(), out.size(), history);
      for (int i = 0; i < due.size(); i++) {
        Object v = due.get(i);
        boolean mark = v instanceof String;
        for (int j = i + 1; j < due.size(); j++) {
          Object w = due.get(j);
          if (mark || w instanceof String || order == Order.ORDERED
              || order == Order.KEYED && (Long) v % 3 == (Long) w % 3) {
            assertTrue(out.indexOf(v) < out.indexOf(w), history + ": " + v + ", " + w);
          }
        }
      }
    }
  }

  @Test
  void capacityBlocksInput() throws Exception {
    // The ferry answers only when it has three calls, so without the third one nothing goes on.
    int[] most = {0};
    ferry.script = (c, call) -> {
      int open = ferry.calls.size() - c.answered.size();
      most[0] = Math.max(most[0], open);
      if (open == 3) {
        ferry.calls.get(c.answered.size()).answer();
      }
    };
    OneInputStreamOperatorTestHarness<Long, Long> h =
        opened(options().capacity(3), Order.UNORDERED);
    assertTrue(ferry.connection(0).hello.contains("\"capacity\":3"), ferry.connection(0).hello);
    for (long v = 1; v <= 50; v++) {
      h.processElement(v, 0);
    }
    ferry.awaitCalls(50);
    ferry.answerAll();
    h.endInput();
    assertEquals(tenfold(1, 50), values(h));
    assertEquals(3, most[0]);
  }

  @Test
  void drainsBeforeABarrierWhenOrdered() throws Exception {
    ferry.script = (c, call) -> {
      if (call.value() == 5) {
        ferry.answerAll();
      }
    };
    OneInputStreamOperatorTestHarness<Long, Long> h = opened(options(), Order.ORDERED);
    for (long v = 1; v <= 5; v++) {
      h.processElement(v, 0);
    }
    h.prepareSnapshotPreBarrier(1);
    assertEquals(tenfold(1, 5), values(h));
    OperatorSubtaskState state = h.snapshot(1, 0);
    OneInputStreamOperatorTestHarness<Long, Long> again = harness(options(), Order.ORDERED, 1, 0);
    again.initializeState(state);
    again.open();
    again.endInput();
    assertEquals(List.of(), values(again));
  }

  @Test
  void drainHasALimitAndTheRestIsInTheState() throws Exception {
    ferry.script = (c, call) -> {};
    OneInputStreamOperatorTestHarness<Long, Long> h =
        opened(options().drainLimit(Duration.ofSeconds(7)), Order.ORDERED);
    for (long v = 1; v <= 4; v++) {
      h.processElement(v, v);
    }
    ferry.awaitCalls(4);
    ferry.calls.get(0).answer();
    Thread time = new Thread(() -> {
      try {
        until("timer", () -> h.getProcessingTimeService().getNumActiveTimers() == 1);
        h.setProcessingTime(6999);
        until("first result", () -> h.getOutput().size() == 1);
        h.setProcessingTime(7000);
      } catch (Exception e) {
        throw new AssertionError(e);
      }
    });
    time.start();
    h.prepareSnapshotPreBarrier(1);
    time.join();
    assertEquals(List.of(10L), values(h));
    restored(h.snapshot(1, 0), Order.ORDERED, tenfold(2, 4));
  }

  @Test
  void drainGivesUpWhileTheFerryIsAway() throws Exception {
    ferry.script = (c, call) -> {};
    OneInputStreamOperatorTestHarness<Long, Long> h = opened(options(), Order.ORDERED);
    h.processElement(1L, 1);
    ferry.awaitCalls(1);
    Thread held = new Thread(() -> {
      try {
        until("timer", () -> h.getProcessingTimeService().getNumActiveTimers() == 1);
        ferry.connection(0).send(20, 0, FakeFerry.text("the server is away"));
      } catch (Exception e) {
        throw new AssertionError(e);
      }
    });
    held.start();
    h.prepareSnapshotPreBarrier(1);
    h.prepareSnapshotPreBarrier(2);
    restored(h.snapshot(2, 0), Order.ORDERED, List.of(10L));
  }

  private void restored(OperatorSubtaskState state, Order order, List<Long> want)
      throws Exception {
    ferry.script = (c, call) -> call.answer();
    OneInputStreamOperatorTestHarness<Long, Long> h = harness(options(), order, 1, 0);
    h.initializeState(state);
    h.open();
    h.processElement(1000L, 0);
    h.endInput();
    List<Long> all = new ArrayList<>(want);
    all.add(10_000L);
    assertEquals(all, values(h));
  }

  @Test
  void unorderedSnapshotsWithoutADrain() throws Exception {
    ferry.script = (c, call) -> {};
    OneInputStreamOperatorTestHarness<Long, Long> h = opened(options(), Order.UNORDERED);
    for (long v = 1; v <= 5; v++) {
      h.processElement(v, 100 + v);
      h.processWatermark(100 + v);
    }
    ferry.awaitCalls(5);
    ferry.calls.get(1).answer();
    ferry.calls.get(0).answer();
    output(h, 4);
    ferry.calls.get(4).answer();
    h.prepareSnapshotPreBarrier(1);
    OperatorSubtaskState state = h.snapshot(1, 0);
    // Those without a result that left are called again, into less room, with their timestamps.
    ferry.script = (c, call) -> call.answer();
    OneInputStreamOperatorTestHarness<Long, Long> again =
        harness(options().capacity(1), Order.UNORDERED, 1, 0);
    again.initializeState(state);
    again.open();
    again.endInput();
    assertEquals(List.of(new StreamRecord<>(30L, 103), new StreamRecord<>(40L, 104),
        new StreamRecord<>(50L, 105)), new ArrayList<>(again.getOutput()));
    // What was restored is in the next snapshot no more.
    assertEquals(0, again.snapshot(2, 0).getManagedOperatorState().stream()
        .mapToInt(s -> s.getStateNameToPartitionOffsets().values().stream()
            .mapToInt(o -> o.getOffsets().length).sum()).sum());
  }

  @Test
  void stateIsSharedOutOverAnotherParallelism() throws Exception {
    ferry.script = (c, call) -> {};
    List<OperatorSubtaskState> states = new ArrayList<>();
    for (int i = 0; i < 2; i++) {
      OneInputStreamOperatorTestHarness<Long, Long> h = harness(options(), Order.UNORDERED, 2, i);
      h.open();
      for (long v = 1; v <= 10; v++) {
        h.processElement(100 * i + v, 0);
      }
      states.add(h.snapshot(1, 0));
    }
    OperatorSubtaskState all = AbstractStreamOperatorTestHarness.repackageState(
        states.get(0), states.get(1));
    ferry.script = (c, call) -> call.answer();
    List<Long> got = new ArrayList<>();
    for (int i = 0; i < 3; i++) {
      OneInputStreamOperatorTestHarness<Long, Long> h = harness(options(), Order.ORDERED, 3, i);
      h.initializeState(AbstractStreamOperatorTestHarness.repartitionOperatorState(all, 128, 2, 3, i));
      h.open();
      h.endInput();
      assertFalse(values(h).isEmpty());
      got.addAll(values(h));
    }
    got.sort(null);
    List<Long> want = tenfold(1, 10);
    want.addAll(tenfold(101, 110));
    assertEquals(want, got);
  }

  @Test
  void keyedStateGoesWhereTheKeyGoes() throws Exception {
    for (Order order : new Order[] {Order.KEYED, Order.ORDERED}) {
      ferry.script = (c, call) -> {};
      KeyedOneInputStreamOperatorTestHarness<Long, Long, Long> h = keyed(order, 1, 0);
      h.open();
      for (long v = 1; v <= 40; v++) {
        h.processElement(v, v);
      }
      h.snapshot(1, 0);
      for (long v = 41; v <= 60; v++) {
        h.processElement(v, v);
      }
      OperatorSubtaskState state = h.snapshot(2, 0);
      ferry.script = (c, call) -> call.answer();
      List<Long> got = new ArrayList<>();
      for (int i = 0; i < 3; i++) {
        KeyedOneInputStreamOperatorTestHarness<Long, Long, Long> part = keyed(order, 3, i);
        part.initializeState(
            AbstractStreamOperatorTestHarness.repartitionOperatorState(state, 128, 1, 3, i));
        part.open();
        int subtask = i;
        // A record of each key that is this subtask's comes behind the restored ones.
        for (long v = 61; v <= 70; v++) {
          int to = org.apache.flink.runtime.state.KeyGroupRangeAssignment
              .assignKeyToParallelOperator(v % 10, 128, 3);
          if (to == subtask) {
            part.processElement(v, v);
          }
        }
        part.endInput();
        for (long digit = 0; digit < 10; digit++) {
          long d = digit;
          List<Long> of = values(part).stream().filter(v -> v / 10 % 10 == d)
              .collect(Collectors.toList());
          List<Long> sorted = new ArrayList<>(of);
          sorted.sort(null);
          assertEquals(sorted, of);
          assertTrue(of.isEmpty() || of.size() == 7, "results of key " + digit + ": " + of);
        }
        got.addAll(values(part));
        assertEquals(0, part.snapshot(3, 0).getManagedKeyedState().stream()
            .mapToLong(s -> part.numKeyedStateEntries()).sum());
      }
      got.sort(null);
      assertEquals(tenfold(1, 70), got);
      h.close();
      harnesses.remove(h);
      ferry.calls.clear();
    }
  }

  @Test
  void stateWithoutKeysIsNotLostBehindKeyBy() throws Exception {
    ferry.script = (c, call) -> {};
    OneInputStreamOperatorTestHarness<Long, Long> h = opened(options(), Order.UNORDERED);
    h.processElement(1L, 0);
    KeyedOneInputStreamOperatorTestHarness<Long, Long, Long> keyed = keyed(Order.KEYED, 1, 0);
    OperatorSubtaskState state = h.snapshot(1, 0);
    assertTrue(assertThrows(IllegalStateException.class, () -> keyed.initializeState(state))
        .getMessage().contains("without keyBy"));
  }

  @Test
  void failuresEndTheTask() throws Exception {
    for (int failureClass : new int[] {0, 1, 5}) {
      ferry.script = (c, call) -> c.fail(call.id, 0, failureClass, "INTERNAL", "no luck");
      OneInputStreamOperatorTestHarness<Long, Long> h = opened(options(), Order.ORDERED);
      h.processElement(1L, 0);
      Throwable e = assertThrows(Throwable.class, h::endInput);
      SidecarException s = ExceptionUtils.findThrowable(e, SidecarException.class).get();
      assertEquals("no luck", s.failure.text);
      assertEquals(failureClass != 0,
          ExceptionUtils.findThrowable(e, SuppressRestartsException.class).isPresent());
      assertEquals(0, h.getOutput().size());
      h.close();
    }
  }

  @Test
  void ferryThatIsGoneForTooLongEndsTheTask() throws Exception {
    ferry.script = (c, call) -> {};
    OneInputStreamOperatorTestHarness<Long, Long> h =
        opened(options().hold(Duration.ofMillis(200)), Order.ORDERED);
    h.processElement(1L, 0);
    ferry.awaitCalls(1);
    ferry.stop();
    Throwable e = assertThrows(Throwable.class, h::endInput);
    assertEquals("transport",
        ExceptionUtils.findThrowable(e, SidecarException.class).get().failure.failureClass);
    assertFalse(ExceptionUtils.findThrowable(e, SuppressRestartsException.class).isPresent());
  }

  @Test
  void dropsAndDeadLetters() throws Exception {
    ferry.script = (c, call) -> {
      if (call.value() % 3 == 0) {
        c.fail(call.id, (int) (call.value() % 2) + 1, 1, "INVALID_ARGUMENT", "bad " + call.value());
      } else {
        call.answer();
      }
    };
    OneInputStreamOperatorTestHarness<Long, Long> h =
        opened(options().onError("record", "dead_letter"), Order.ORDERED);
    for (long v : new long[] {1, 3, 2, 6, Tenfold.BAD, Tenfold.BAD_RESULT, 4}) {
      h.processElement(v, v);
    }
    h.endInput();
    assertEquals(List.of(10L, 20L, 40L), values(h));
    List<String> dead = h.getSideOutput(GpuSidecar.deadLetters(Types.LONG)).stream()
        .map(r -> r.getTimestamp() + " " + r.getValue().f0 + " " + r.getValue().f1.text)
        .collect(Collectors.toList());
    assertEquals(List.of("3 3 bad 3",
        "-1 -1 the codec could not encode a record: java.lang.IllegalArgumentException: no number "
            + "for me",
        "-2 -2 the codec could not decode a result: java.lang.IllegalArgumentException: no result "
            + "for me"), dead);
    assertEquals(Failure.class, Types.POJO(Failure.class).getTypeClass());
  }

  @Test
  void codecsOwnFailureEndsTheJob() throws Exception {
    OneInputStreamOperatorTestHarness<Long, Long> h = opened(options(), Order.UNORDERED);
    assertThrows(SuppressRestartsException.class, () -> h.processElement(Tenfold.BAD, 0));
  }

  @Test
  void codecThatDoesNotFitTheModel() throws Exception {
    ferry.welcome = FakeFerry.welcome(10, 100, 100, 100, 100, "other", "y");
    OneInputStreamOperatorTestHarness<Long, Long> h = opened(options(), Order.UNORDERED);
    Throwable e = assertThrows(SuppressRestartsException.class, () -> h.processElement(1L, 0));
    assertTrue(e.getCause().getMessage().contains("the model has no \"x\", but [other INT64 [1]]"));
  }

  @Test
  void objectsThatAreUsedAgainAreCopied() throws Exception {
    ferry.script = (c, call) -> {};
    OneInputStreamOperatorTestHarness<Long, Long> h = harness(options(), Order.ORDERED, 1, 0);
    h.getExecutionConfig().enableObjectReuse();
    h.open();
    StreamRecord<Long> one = new StreamRecord<>(0L);
    for (long v = 1; v <= 3; v++) {
      h.processElement(one.replace(v, v));
    }
    one.replace(99L, 99);
    ferry.awaitCalls(3);
    ferry.answerAll();
    h.endInput();
    assertEquals(List.of(new StreamRecord<>(10L, 1), new StreamRecord<>(20L, 2),
        new StreamRecord<>(30L, 3)), new ArrayList<>(h.getOutput()));
  }

  @Test
  void lostConnectionIsNoFailureOfTheTask() throws Exception {
    ferry.script = (c, call) -> {
      if (call.value() % 10 == 0 && ferry.connections.size() <= call.value() / 10) {
        c.close();
      } else {
        call.answer();
      }
    };
    OneInputStreamOperatorTestHarness<Long, Long> h =
        opened(options().capacity(10), Order.ORDERED);
    for (long v = 1; v <= 50; v++) {
      h.processElement(v, 0);
    }
    h.endInput();
    assertEquals(tenfold(1, 50), values(h));
    assertTrue(ferry.connections.size() > 3);
  }
}
