package com.github.tensorferry.flink;

import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.common.typeinfo.Types;
import org.apache.flink.api.java.tuple.Tuple2;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.datastream.KeyedStream;
import org.apache.flink.streaming.api.datastream.SingleOutputStreamOperator;
import org.apache.flink.util.OutputTag;

/**
 * Calls a model with the records of a stream, through a ferry. The operator keeps the order, bounds
 * the records in flight, and stores those without a result in checkpoints; after a restore they are
 * called again, before new ones. The ferry batches, retries, and waits for servers that are away.
 *
 * <p>Results keep the timestamps of their records, and no watermark overtakes a record or is
 * overtaken.
 */
public final class GpuSidecar {
  /** Which results may pass which. */
  enum Order { ORDERED, UNORDERED, KEYED }

  private GpuSidecar() {}

  /**
   * Results leave in the order of their records. A checkpoint barrier waits for the results of what
   * came before it, up to the drain limit, but not while the ferry or the model server is away.
   */
  public static <IN, OUT> SingleOutputStreamOperator<OUT> orderedWait(DataStream<IN> stream,
      TensorCodec<IN, OUT> codec, SidecarOptions options, TypeInformation<OUT> type) {
    return add(stream, codec, options, type, Order.ORDERED);
  }

  /** Results leave as they come. Barriers do not wait. */
  public static <IN, OUT> SingleOutputStreamOperator<OUT> unorderedWait(DataStream<IN> stream,
      TensorCodec<IN, OUT> codec, SidecarOptions options, TypeInformation<OUT> type) {
    return add(stream, codec, options, type, Order.UNORDERED);
  }

  /** Results of a key leave in the order of its records, which are called together. */
  public static <IN, OUT> SingleOutputStreamOperator<OUT> keyedWait(KeyedStream<IN, ?> stream,
      TensorCodec<IN, OUT> codec, SidecarOptions options, TypeInformation<OUT> type) {
    return add(stream, codec, options, type, Order.KEYED);
  }

  /** Returns the side output of dead letters: records, and why they have no result. */
  public static <IN> OutputTag<Tuple2<IN, Failure>> deadLetters(TypeInformation<IN> type) {
    return new OutputTag<>("tensorferry-dead-letters",
        Types.TUPLE(type, Types.POJO(Failure.class)));
  }

  private static <IN, OUT> SingleOutputStreamOperator<OUT> add(DataStream<IN> stream,
      TensorCodec<IN, OUT> codec, SidecarOptions options, TypeInformation<OUT> type, Order order) {
    // The thread of an old kind of source cannot run what this operator waits for.
    boolean legacy = stream.getTransformation().getTransitivePredecessors().stream()
        .anyMatch(t -> t.getClass().getSimpleName().equals("LegacySourceTransformation"));
    return stream.transform("tensorferry", type, new SidecarOperator.Factory<>(codec,
        options, order, deadLetters(stream.getType()), legacy));
  }
}
