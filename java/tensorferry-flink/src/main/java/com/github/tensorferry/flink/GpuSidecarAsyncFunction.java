package com.github.tensorferry.flink;

import com.github.tensorferry.flink.internal.FerryClient;
import java.time.Duration;
import java.util.Collections;
import java.util.concurrent.ConcurrentHashMap;
import java.util.concurrent.TimeoutException;
import org.apache.flink.api.common.functions.OpenContext;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.functions.async.ResultFuture;
import org.apache.flink.streaming.api.functions.async.RichAsyncFunction;

/**
 * Calls a model through a ferry, for Flink's own {@code AsyncDataStream}. All is as Flink has it:
 * barriers do not wait, records in flight are in the checkpoint, and Flink's timeout runs while the
 * server is away. {@link GpuSidecar} has an operator that knows the ferry better, and dead letters.
 *
 * <p>A failure is a {@link SidecarException}. Flink's restart strategy decides what follows, unless
 * no restart mends it: then the job ends.
 */
public final class GpuSidecarAsyncFunction<IN, OUT> extends RichAsyncFunction<IN, OUT>
    implements FerryClient.Listener {
  private static final long serialVersionUID = 1;

  private final SidecarOptions options;
  private final TensorCodec<IN, OUT> codec;
  private transient Session<IN, OUT> session;
  private transient ConcurrentHashMap<Long, Tuple2<IN, ResultFuture<OUT>>> pending;
  private transient volatile SidecarException failure;
  private transient long lastId;

  /** Makes a function for a ferry that knows one model. */
  public GpuSidecarAsyncFunction(
      String endpoint, Duration timeout, int capacity, TensorCodec<IN, OUT> codec) {
    this(new SidecarOptions(endpoint).timeout(timeout).capacity(capacity), codec);
  }

  public GpuSidecarAsyncFunction(SidecarOptions options, TensorCodec<IN, OUT> codec) {
    if (options.onError.containsValue("dead_letter")) {
      throw new IllegalArgumentException(
          "Flink's operator has no place for dead letters; use GpuSidecar.orderedWait and others");
    }
    this.options = options;
    this.codec = codec;
  }

  @Override public void open(OpenContext context) throws Exception {
    pending = new ConcurrentHashMap<>();
    session = new Session<>(options, codec, getRuntimeContext(),
        getRuntimeContext().getTaskInfo().getTaskName(), pending::size, this);
    session.open();
  }

  @Override public void close() {
    if (session != null) {
      session.client.close();
    }
  }

  @Override public void asyncInvoke(IN in, ResultFuture<OUT> result) {
    try {
      byte[] frame;
      synchronized (codec) {
        frame = session.encode(in);
      }
      pending.put(++lastId, Tuple2.of(in, result));
      session.client.call(lastId, frame);
      if (failure != null) {
        throw failure;
      }
    } catch (SidecarException e) {
      fail(result, e);
    }
  }

  @Override public void timeout(IN in, ResultFuture<OUT> result) {
    pending.forEach((id, p) -> {
      if (p.f1 == result && pending.remove(id) != null) {
        session.client.cancel(id);
        result.completeExceptionally(new TimeoutException("no answer of the ferry at "
            + options.endpoint + " within the timeout of AsyncDataStream"));
      }
    });
  }

  @Override public void answer(long id, byte[] row, Failure f) {
    Tuple2<IN, ResultFuture<OUT>> p = pending.remove(id);
    try {
      if (p != null && f != null) {
        throw new SidecarException(f, null);
      } else if (p != null) {
        synchronized (codec) {
          p.f1.complete(Collections.singleton(session.decode(p.f0, row)));
        }
      }
    } catch (SidecarException e) {
      fail(p.f1, e);
    }
  }

  private void fail(ResultFuture<OUT> result, SidecarException e) {
    if (e.failure.action == 1) {
      session.dropped.inc();
      result.complete(Collections.emptyList());
    } else {
      result.completeExceptionally(Session.toThrow(e));
    }
  }

  @Override public void changed() {}

  @Override public void failed(SidecarException cause) {
    failure = cause;
    pending.values().forEach(p -> fail(p.f1, cause));
  }
}
