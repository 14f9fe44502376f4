package com.github.tensorferry.flink;

import java.nio.*;
import java.nio.charset.StandardCharsets;
import java.util.stream.Stream;

/** One row of a model's outputs, as a codec reads it. */
public final class RowReader {
  private final Signature signature;
  private final Output[] outputs;
  private byte[] whole;

  /** Makes a reader. A job needs none of its own; tests of codecs may. */
  public RowReader(Signature signature) {
    this.signature = signature;
    outputs = signature.outputs.stream().map(Output::new).toArray(Output[]::new);
  }

  /** Returns the output at a position. */
  public Output output(int position) { return outputs[position]; }

  /** Returns the output with a name. */
  public Output output(String name) {
    return outputs[Signature.position(signature.outputs, name)];
  }

  /**
   * One output of the row. A method for each type gives its elements, row-major; longs are also the
   * bits of UINT64, shorts those of FP16, and so on. A type that is not the output's is refused.
   */
  public static final class Output {
    private final Signature.Tensor tensor;
    private final int[] shape;
    private ByteBuffer row;
    private int from, to, count;

    private Output(Signature.Tensor tensor) {
      this.tensor = tensor;
      shape = new int[tensor.shape.length];
    }

    /** Returns the size of each dimension. */
    public int[] shape() { return shape.clone(); }

    public FloatBuffer floats() { return elements('F').asFloatBuffer(); }
    public DoubleBuffer doubles() { return elements('D').asDoubleBuffer(); }
    public LongBuffer longs() { return elements('J').asLongBuffer(); }
    public IntBuffer ints() { return elements('I').asIntBuffer(); }
    public ShortBuffer shorts() { return elements('S').asShortBuffer(); }
    public ByteBuffer bytes() { return elements('B'); }

    public boolean[] booleans() {
      boolean[] all = new boolean[count];
      ByteBuffer in = elements('Z');
      for (int i = 0; i < count; i++) {
        all[i] = in.get() != 0;
      }
      return all;
    }

    /** Returns the elements of BYTES. */
    public byte[][] byteArrays() {
      byte[][] all = new byte[count][];
      ByteBuffer in = elements('[');
      for (int i = 0; i < count; i++) {
        all[i] = new byte[in.getInt()];
        in.get(all[i]);
      }
      return all;
    }

    /** Returns the elements of BYTES as texts in UTF-8. */
    public String[] strings() {
      return Stream.of(byteArrays()).map(b -> new String(b, StandardCharsets.UTF_8))
          .toArray(String[]::new);
    }

    /** Returns the bytes of elements of any datatype, as they lie in the row. */
    public ByteBuffer raw() { return elements(tensor.type); }

    private ByteBuffer elements(char type) {
      if (tensor.type != type) {
        throw new IllegalArgumentException("the output " + tensor + " has another type");
      }
      return row.duplicate().position(from).limit(to).slice().order(ByteOrder.LITTLE_ENDIAN);
    }

    /** Finds the output at the row's position, and goes behind it. */
    private void find(ByteBuffer row) {
      this.row = row;
      long elements = 1;
      for (int d = 0; d < shape.length; d++) {
        shape[d] = tensor.shape[d] == -1 ? row.getInt() : (int) tensor.shape[d];
        elements *= shape[d];
        if (shape[d] < 0 || elements > row.limit()) {
          throw new IllegalArgumentException("its shape");
        }
      }
      from = row.position();
      count = (int) elements;
      for (int i = 0; tensor.size == 0 && i < count; i++) {
        int length = row.getInt();
        row.position(length < 0 ? -1 : Math.addExact(row.position(), length));
      }
      row.position(Math.addExact(row.position(), Math.multiplyExact(tensor.size, count)));
      to = row.position();
    }
  }

  /** Returns the row as it came, for the form json. */
  byte[] whole() { return whole; }

  /** Takes the next row. One that does not suit the outputs is refused. */
  void row(byte[] bytes, boolean json) {
    whole = bytes;
    ByteBuffer row = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
    try {
      for (int i = 0; i < outputs.length && !json; i++) {
        outputs[i].find(row);
      }
    } catch (IllegalArgumentException | ArithmeticException | BufferUnderflowException e) {
      throw new IllegalStateException("a result does not suit " + signature, e);
    }
    if (row.hasRemaining() && !json) {
      throw new IllegalStateException("a result is too long for " + signature);
    }
  }
}
