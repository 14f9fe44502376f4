package com.github.tensorferry.flink;

import com.github.tensorferry.flink.internal.*;
import java.util.Objects;
import java.util.function.IntSupplier;
import org.apache.flink.api.common.functions.RuntimeContext;
import org.apache.flink.metrics.*;
import org.apache.flink.runtime.execution.SuppressRestartsException;

/** What a subtask needs of a ferry: a client, a codec that knows the model, and metrics. */
final class Session<IN, OUT> {
  final FerryClient client;
  final Counter dropped;
  final Counter deadLetters;
  private final SidecarOptions options;
  private final TensorCodec<IN, OUT> codec;
  private RowWriter writer;
  private RowReader reader;

  Session(SidecarOptions options, TensorCodec<IN, OUT> codec, RuntimeContext context, String name,
      IntSupplier inFlight, FerryClient.Listener listener) {
    this.options = options;
    this.codec = codec;
    client = new FerryClient(options.client(context.getJobInfo().getJobName(),
        context.getTaskInfo().getIndexOfThisSubtask(),
        context.getTaskInfo().getNumberOfParallelSubtasks(),
        Objects.requireNonNullElse(name, "tensorferry"), codec), listener);
    MetricGroup group = context.getMetricGroup();
    dropped = group.counter("dropped");
    deadLetters = group.counter("deadLetters");
    group.gauge("inFlight", inFlight::getAsInt);
    group.gauge("connected", () -> client.isAway() ? 0 : 1);
    group.gauge("held", () -> client.stats.held);
    group.gauge("retries", () -> client.stats.retries);
    group.gauge("batchRows", () -> client.stats.batchRows);
    group.gauge("callLatency", () -> client.stats.callMillis);
    group.gauge("queueLatency", () -> client.stats.queueMillis);
  }

  /** Waits until the ferry knows the model, and binds the codec to it. */
  void open() throws Exception {
    Signature signature;
    try {
      signature = client.open();
    } catch (SidecarException e) {
      throw toThrow(e);
    }
    try {
      codec.bind(signature);
    } catch (Exception e) {
      throw toThrow(failed("permanent", "the codec does not fit the model", e));
    }
    writer = new RowWriter(signature);
    reader = new RowReader(signature);
  }

  /** Makes the frame of a record's call. */
  byte[] encode(IN in) throws SidecarException {
    try {
      writer.clear();
      codec.encode(in, writer);
      return writer.row(Frames.CALL_HEADER);
    } catch (Exception e) {
      throw failed("record", "the codec could not encode a record", e);
    }
  }

  /** Makes the result of a record from its row. */
  OUT decode(IN in, byte[] row) throws SidecarException {
    try {
      reader.row(row, codec instanceof JsonMapping);
    } catch (IllegalStateException e) {
      throw failed("backend", "the ferry's answer cannot be read", e);
    }
    try {
      return Objects.requireNonNull(codec.decode(in, reader), "it gave no result");
    } catch (Exception e) {
      throw failed("record", "the codec could not decode a result", e);
    }
  }

  private SidecarException failed(String failureClass, String what, Exception e) {
    Failure f = client.local(failureClass, "INVALID_ARGUMENT", what + ": " + e);
    Object action = options.onError.getOrDefault(failureClass, "fail");
    f.action = action.equals("drop") ? 1 : action.equals("dead_letter") ? 2 : 0;
    return new SidecarException(f, e);
  }

  /** Returns what ends the task. Flink does not start again what no restart mends. */
  static Exception toThrow(SidecarException e) {
    return e.failure.isFinal() ? new SuppressRestartsException(e) : e;
  }
}
