package com.github.tensorferry.flink;

import com.github.tensorferry.flink.ResultQueue.Entry;
import com.github.tensorferry.flink.internal.FerryClient;
import java.util.*;
import java.util.concurrent.*;
import java.util.concurrent.atomic.AtomicBoolean;
import java.util.stream.Stream;
import org.apache.flink.api.common.operators.MailboxExecutor;
import org.apache.flink.api.common.state.ListState;
import org.apache.flink.api.common.state.ListStateDescriptor;
import org.apache.flink.api.common.typeutils.TypeSerializer;
import org.apache.flink.api.common.typeutils.base.LongSerializer;
import org.apache.flink.api.java.functions.KeySelector;
import org.apache.flink.api.java.tuple.*;
import org.apache.flink.api.java.typeutils.runtime.TupleSerializer;
import org.apache.flink.runtime.state.*;
import org.apache.flink.streaming.api.operators.*;
import org.apache.flink.streaming.api.watermark.Watermark;
import org.apache.flink.streaming.runtime.streamrecord.StreamRecord;
import org.apache.flink.streaming.runtime.watermarkstatus.WatermarkStatus;
import org.apache.flink.util.OutputTag;
import org.apache.flink.util.function.ThrowingRunnable;

/**
 * The operator behind {@link GpuSidecar}. The task's thread alone touches the queue, the codec and
 * the output; the client's threads hand over answers and put a mail into the task's mailbox.
 */
final class SidecarOperator<IN, OUT> extends AbstractStreamOperator<OUT>
    implements OneInputStreamOperator<IN, OUT>, BoundedOneInput, FerryClient.Listener {
  private static final long serialVersionUID = 1;
  /** The state's name. Another layout gets another name. */
  private static final String STATE = "tensorferry-calls-1";
  private static final long NO_TIMESTAMP = Long.MIN_VALUE;

  private final transient Factory<IN, OUT> job;
  private final transient MailboxExecutor mailbox;
  private final transient ResultQueue<IN, OUT> queue = new ResultQueue<>();
  private final transient Queue<ThrowingRunnable<Exception>> answers =
      new ConcurrentLinkedQueue<>();
  private final transient AtomicBoolean mailed = new AtomicBoolean();
  private final transient List<Tuple3<Long, Long, IN>> restored = new ArrayList<>();
  private final transient Set<Object> keysInState = new HashSet<>();
  private transient TypeSerializer<IN> serializer;
  private transient ListState<Tuple3<Long, Long, IN>> state;
  private transient Session<IN, OUT> session;

  /** Makes the operator, in each subtask with a codec of its own. */
  static final class Factory<IN, OUT> extends AbstractStreamOperatorFactory<OUT>
      implements OneInputStreamOperatorFactory<IN, OUT> {
    private static final long serialVersionUID = 1;

    private final TensorCodec<IN, OUT> codec;
    private final SidecarOptions options;
    private final GpuSidecar.Order order;
    private final OutputTag<Tuple2<IN, Failure>> deadLetters;

    Factory(TensorCodec<IN, OUT> codec, SidecarOptions options, GpuSidecar.Order order,
        OutputTag<Tuple2<IN, Failure>> deadLetters, boolean ownThread) {
      this.codec = codec;
      this.options = options;
      this.order = order;
      this.deadLetters = deadLetters;
      setChainingStrategy(ownThread ? ChainingStrategy.HEAD : ChainingStrategy.ALWAYS);
    }

    @Override @SuppressWarnings("unchecked")
    public <T extends StreamOperator<OUT>> T createStreamOperator(StreamOperatorParameters<OUT> p) {
      return (T) new SidecarOperator<>(this, p);
    }

    @Override @SuppressWarnings("rawtypes")
    public Class<? extends StreamOperator> getStreamOperatorClass(ClassLoader loader) {
      return SidecarOperator.class;
    }
  }

  private SidecarOperator(Factory<IN, OUT> job, StreamOperatorParameters<OUT> p) {
    this.job = job;
    mailbox = p.getMailboxExecutor();
    processingTimeService = p.getProcessingTimeService();
    setup(p.getContainingTask(), p.getStreamConfig(), p.getOutput());
  }

  @Override public void open() throws Exception {
    super.open();
    session = new Session<>(job.options, job.codec, getRuntimeContext(), config.getOperatorName(),
        queue::size, this);
    session.open();
    restored.sort(Comparator.comparing(t -> t.f0));
    for (Tuple3<Long, Long, IN> t : restored) {
      admit(t.f2, t.f1);
    }
    restored.clear();
  }

  @Override public void close() throws Exception {
    try {
      if (session != null) {
        session.client.close();
      }
    } finally {
      super.close();
    }
  }

  @Override public void processElement(StreamRecord<IN> r) throws Exception {
    IN in = r.getValue();
    if (getExecutionConfig().isObjectReuseEnabled()) {
      in = serializer.copy(in);
    }
    admit(in, r.hasTimestamp() ? r.getTimestamp() : NO_TIMESTAMP);
  }

  /** Calls the model with a record, and waits while the operator is full. */
  private void admit(IN in, long timestamp) throws Exception {
    Object key = job.order == GpuSidecar.Order.KEYED ? key(in)
        : job.order == GpuSidecar.Order.ORDERED ? job.order : null;
    Entry<IN, OUT> e = new Entry<>(in, timestamp, key);
    queue.add(e);
    try {
      session.client.call(e.id, session.encode(in));
    } catch (SidecarException x) {
      failed(e, x);
      emit();
    }
    while (queue.size() >= job.options.capacity) {
      mailbox.yield();
    }
  }

  @SuppressWarnings("unchecked")
  private Object key(IN in) throws Exception {
    return ((KeySelector<IN, ?>) stateKeySelector1).getKey(in);
  }

  @Override public void processWatermark(Watermark mark) throws Exception {
    queue.mark(mark);
    emit();
  }

  @Override public void processWatermarkStatus(WatermarkStatus status) throws Exception {
    queue.mark(status);
    emit();
  }

  @Override public void endInput() throws Exception {
    while (queue.size() > 0) {
      mailbox.yield();
    }
  }

  @Override public void prepareSnapshotPreBarrier(long checkpointId) throws Exception {
    super.prepareSnapshotPreBarrier(checkpointId);
    long limit = job.options.drainMillis;
    if (job.order != GpuSidecar.Order.ORDERED || queue.size() == 0 || limit <= 0) {
      return;
    }
    AtomicBoolean over = new AtomicBoolean();
    ScheduledFuture<?> timer = processingTimeService.registerTimer(
        processingTimeService.getCurrentProcessingTime() + limit, now -> {
          over.set(true);
          changed();
        });
    while (queue.size() > 0 && !over.get() && !session.client.isAway()) {
      mailbox.yield();
    }
    timer.cancel(false);
  }

  @Override public void initializeState(StateInitializationContext context) throws Exception {
    super.initializeState(context);
    serializer = config.getTypeSerializerIn(0, getUserCodeClassloader());
    ListStateDescriptor<Tuple3<Long, Long, IN>> descriptor =
        new ListStateDescriptor<>(STATE, tuples());
    state = context.getOperatorStateStore().getListState(descriptor);
    state.get().forEach(restored::add);
    if (stateKeySelector1 == null) {
      return;
    }
    if (!restored.isEmpty()) {
      throw new IllegalStateException("the checkpoint is of this operator without keyBy before it; "
          + "with keyBy it cannot tell whose the " + restored.size() + " records in it are");
    }
    // After keyBy a record's new subtask is that of its key, so its place is the key's state.
    state = context.getKeyedStateStore().getListState(descriptor);
    if (context.isRestored()) {
      try (Stream<Object> keys = getKeyedStateBackend().getKeys(STATE, VoidNamespace.INSTANCE)) {
        keys.forEach(keysInState::add);
      }
      for (Object key : keysInState) {
        setCurrentKey(key);
        state.get().forEach(restored::add);
      }
    }
  }

  @SuppressWarnings({"unchecked", "rawtypes"})
  private TypeSerializer<Tuple3<Long, Long, IN>> tuples() {
    return new TupleSerializer(Tuple3.class,
        new TypeSerializer<?>[] {LongSerializer.INSTANCE, LongSerializer.INSTANCE, serializer});
  }

  /** Stores the records without a result that left. Watermarks come again from their sources. */
  @Override public void snapshotState(StateSnapshotContext context) throws Exception {
    super.snapshotState(context);
    if (stateKeySelector1 == null) {
      List<Tuple3<Long, Long, IN>> all = new ArrayList<>();
      queue.entries().forEach(e -> all.add(Tuple3.of(e.id, e.timestamp, e.in)));
      state.update(all);
      return;
    }
    for (Object key : keysInState) {
      setCurrentKey(key);
      state.clear();
    }
    keysInState.clear();
    for (Entry<IN, OUT> e : queue.entries()) {
      Object key = key(e.in);
      setCurrentKey(key);
      state.add(Tuple3.of(e.id, e.timestamp, serializer.copy(e.in)));
      keysInState.add(key);
    }
  }

  @Override public void answer(long id, byte[] row, Failure failure) {
    answers.add(() -> finish(queue.get(id), row, failure));
    if (mailed.compareAndSet(false, true)) {
      changed();
    }
  }

  /** Lets the task's thread look: at answers, or at what it waits for. */
  @Override public void changed() {
    try {
      mailbox.execute(this::take, "answers of the ferry");
    } catch (RejectedExecutionException e) {
      // The task is ending, and nobody waits any longer.
    }
  }

  @Override public void failed(SidecarException cause) {
    try {
      mailbox.execute(() -> {
        throw Session.toThrow(cause);
      }, "failure of the ferry");
    } catch (RejectedExecutionException e) {
      // The task is ending, and closes the client.
    }
  }

  private void take() throws Exception {
    mailed.set(false);
    for (ThrowingRunnable<Exception> a; (a = answers.poll()) != null; ) {
      a.run();
    }
    emit();
  }

  private void finish(Entry<IN, OUT> e, byte[] row, Failure failure) throws Exception {
    try {
      if (failure != null) {
        throw new SidecarException(failure, null);
      }
      e.out = session.decode(e.in, row);
      queue.done(e);
    } catch (SidecarException x) {
      failed(e, x);
    }
  }

  private void failed(Entry<IN, OUT> e, SidecarException x) throws Exception {
    if (x.failure.action == 1) {
      session.dropped.inc();
    } else if (x.failure.action == 2) {
      session.deadLetters.inc();
      e.dead = x.failure;
    } else {
      throw Session.toThrow(x);
    }
    queue.done(e);
  }

  @SuppressWarnings("unchecked")
  private void emit() throws Exception {
    for (Object o; (o = queue.poll()) != null; ) {
      if (o instanceof Watermark) {
        super.processWatermark((Watermark) o);
      } else if (o instanceof WatermarkStatus) {
        super.processWatermarkStatus((WatermarkStatus) o);
      } else {
        Entry<IN, OUT> e = (Entry<IN, OUT>) o;
        if (e.dead != null) {
          output.collect(job.deadLetters, record(Tuple2.of(e.in, e.dead), e.timestamp));
        } else if (e.out != null) {
          output.collect(record(e.out, e.timestamp));
        }
      }
    }
  }

  private static <T> StreamRecord<T> record(T value, long timestamp) {
    return timestamp == NO_TIMESTAMP ? new StreamRecord<>(value)
        : new StreamRecord<>(value, timestamp);
  }
}
