package com.github.tensorferry.flink;

import java.nio.*;
import java.nio.charset.StandardCharsets;

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
  public Output output(int position) {
    return outputs[position];
  }

  /** Returns the output with a name. */
  public Output output(String name) {
    return outputs[Signature.position(signature.outputs, name)];
  }

  /**
   * One output of the row. A method for each type gives its elements, row-major; the method for
   * longs also gives the bits of UINT64, and so on. A type that is not the output's is refused.
   */
  public static final class Output {
    private final Signature.Tensor tensor;
    private final int[] shape;
    private ByteBuffer row;
    private int from;
    private int to;
    private int count;

    private Output(Signature.Tensor tensor) {
      this.tensor = tensor;
      shape = new int[tensor.shape.length];
    }

    /** Returns the size of each dimension. */
    public int[] shape() {
      return shape.clone();
    }

    public FloatBuffer floats() { return elements('F').asFloatBuffer(); }

    public DoubleBuffer doubles() { return elements('D').asDoubleBuffer(); }

    public LongBuffer longs() { return elements('J').asLongBuffer(); }

    public IntBuffer ints() { return elements('I').asIntBuffer(); }

    /** Returns the elements of INT16, or the bits of UINT16, FP16 or BF16. */
    public ShortBuffer shorts() { return elements('S').asShortBuffer(); }

    public ByteBuffer bytes() { return elements('B'); }

    /** Returns the bytes of elements of any datatype, as they lie in the row. */
    public ByteBuffer raw() { return elements(tensor.type); }

    public boolean[] booleans() {
      ByteBuffer in = elements('Z');
      boolean[] all = new boolean[count];
      for (int i = 0; i < count; i++) {
        all[i] = in.get() != 0;
      }
      return all;
    }

    /** Returns the elements of BYTES. */
    public byte[][] byteArrays() {
      ByteBuffer in = elements('[');
      byte[][] all = new byte[count][];
      for (int i = 0; i < count; i++) {
        all[i] = new byte[in.getInt()];
        in.get(all[i]);
      }
      return all;
    }

    /** Returns the elements of BYTES as texts in UTF-8. */
    public String[] strings() {
      byte[][] in = byteArrays();
      String[] all = new String[count];
      for (int i = 0; i < count; i++) {
        all[i] = new String(in[i], StandardCharsets.UTF_8);
      }
      return all;
    }

    private ByteBuffer elements(char type) {
      if (tensor.type != type) {
        throw new IllegalArgumentException("the output " + tensor + " has another type");
      }
      return row.duplicate().position(from).limit(to).slice().order(ByteOrder.LITTLE_ENDIAN);
    }

    /** Finds the output at the row's position, and goes behind it. */
    private void find(ByteBuffer row) {
      long elements = 1;
      for (int d = 0; d < shape.length; d++) {
        shape[d] = tensor.shape[d] == -1 ? row.getInt() : (int) tensor.shape[d];
        elements *= shape[d];
        if (shape[d] < 0 || elements > row.limit()) {
          throw new IllegalArgumentException("its shape");
        }
      }
      this.row = row;
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
  byte[] whole() {
    return whole;
  }

  /** Takes the next row. One that does not suit the outputs is refused. */
  void row(byte[] bytes, boolean json) {
    whole = bytes;
    if (json) {
      return;
    }
    ByteBuffer row = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN);
    try {
      for (Output o : outputs) {
        o.find(row);
      }
    } catch (IllegalArgumentException | ArithmeticException | BufferUnderflowException e) {
      throw new IllegalStateException("a result does not suit " + signature, e);
    }
    if (row.hasRemaining()) {
      throw new IllegalStateException("a result is too long for " + signature);
    }
  }
}
