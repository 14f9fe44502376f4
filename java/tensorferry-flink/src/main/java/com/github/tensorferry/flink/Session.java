package com.github.tensorferry.flink;

import com.github.tensorferry.flink.internal.FerryClient;
import com.github.tensorferry.flink.internal.Frames;
import java.util.function.IntSupplier;
import org.apache.flink.api.common.functions.RuntimeContext;
import org.apache.flink.metrics.Counter;
import org.apache.flink.metrics.Gauge;
import org.apache.flink.metrics.MetricGroup;
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
        context.getTaskInfo().getNumberOfParallelSubtasks(), name, form()), listener);
    MetricGroup group = context.getMetricGroup();
    dropped = group.counter("dropped");
    deadLetters = group.counter("deadLetters");
    gauge(group, "inFlight", inFlight::getAsInt);
    gauge(group, "connected", () -> client.isAway() ? 0 : 1);
    gauge(group, "held", () -> client.stats.held);
    gauge(group, "retries", () -> client.stats.retries);
    gauge(group, "batchRows", () -> client.stats.batchRows);
    gauge(group, "callLatency", () -> client.stats.callMillis);
    gauge(group, "queueLatency", () -> client.stats.queueMillis);
  }

  private static void gauge(MetricGroup group, String name, Gauge<Number> gauge) {
    group.gauge(name, gauge);
  }

  private String form() {
    return codec instanceof JsonMapping ? "json" : "rows";
  }

  /** Waits until the ferry knows the model, and binds the codec to it. */
  void open() throws Exception {
    try {
      Signature signature = client.open();
      writer = new RowWriter(signature);
      reader = new RowReader(signature);
      codec.bind(signature);
    } catch (SidecarException e) {
      throw toThrow(e);
    } catch (RuntimeException e) {
      throw toThrow(failed("permanent", "the codec does not fit the model", e));
    }
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
      return java.util.Objects.requireNonNull(codec.decode(in, reader), "the codec gave no result");
    } catch (Exception e) {
      throw failed("record", "the codec could not decode a result", e);
    }
  }

  private SidecarException failed(String failureClass, String what, Exception e) {
    Failure f = Failure.of(failureClass, "INVALID_ARGUMENT", what + ": " + e);
    Object action = options.onError.getOrDefault(failureClass, "fail");
    f.action = action.equals("drop") ? 1 : action.equals("dead_letter") ? 2 : 0;
    f.model = String.valueOf(options.infer.get("model"));
    f.endpoint = options.endpoint;
    return new SidecarException(f, e);
  }

  /** Returns what ends the task. Flink does not restart what no restart mends. */
  static Exception toThrow(SidecarException e) {
    return e.failure.isFinal() ? new SuppressRestartsException(e) : e;
  }
}
