package com.github.tensorferry.flink;

import java.io.Serializable;

/**
 * Turns records into rows of the model's inputs, and rows of its outputs into results. Each
 * parallel subtask has a copy of its own, and calls it from one thread at a time.
 *
 * <p>A record is kept, and stored in checkpoints, until its result has left. A codec must not
 * change it.
 */
public interface TensorCodec<IN, OUT> extends Serializable {
  /**
   * Gets to know the model, once, before the first record. An exception says that the model does
   * not fit, and ends the job.
   */
  default void bind(Signature signature) throws Exception {}

  /** Writes the record's row: each input exactly once. An exception is the record's failure. */
  void encode(IN in, RowWriter row) throws Exception;

  /**
   * Makes the result of a record from its row of outputs. An exception is the record's failure.
   * The row's arrays are the caller's; the reader is used again.
   */
  OUT decode(IN in, RowReader row) throws Exception;
}
