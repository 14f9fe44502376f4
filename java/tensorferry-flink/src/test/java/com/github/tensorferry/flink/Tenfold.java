package com.github.tensorferry.flink;

/** The codec for the model of the fake ferry: a number, ten times. */
final class Tenfold implements TensorCodec<Long, Long> {
  private static final long serialVersionUID = 1;
  /** A number that it does not encode, and one whose result it does not decode. */
  static final long BAD = -1;
  static final long BAD_RESULT = -2;

  @Override
  public void bind(Signature s) {
    if (!s.inputs.get(0).datatype.equals("INT64")) {
      throw new IllegalArgumentException("x must be INT64");
    }
  }

  @Override
  public void encode(Long in, RowWriter row) {
    if (in == BAD) {
      throw new IllegalArgumentException("no number for me");
    }
    row.input("x").longs(in);
  }

  @Override
  public Long decode(Long in, RowReader row) {
    if (in == BAD_RESULT) {
      throw new IllegalArgumentException("no result for me");
    }
    return row.output("y").longs().get(0);
  }
}
