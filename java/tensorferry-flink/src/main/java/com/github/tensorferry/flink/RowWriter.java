package com.github.tensorferry.flink;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.stream.Stream;

/** One row of a model's inputs, as a codec writes it. Inputs are written in any order. */
public final class RowWriter {
  private static final int MAX = Integer.MAX_VALUE - 64;

  private final Signature signature;
  private final Input[] inputs;
  private byte[] whole;

  /** Makes a writer. A job needs none of its own; tests of codecs may. */
  public RowWriter(Signature signature) {
    this.signature = signature;
    inputs = signature.inputs.stream().map(Input::new).toArray(Input[]::new);
  }

  /** Returns the input at a position. */
  public Input input(int position) { return inputs[position]; }

  /** Returns the input with a name. */
  public Input input(String name) { return inputs[Signature.position(signature.inputs, name)]; }

  /**
   * One input of the row. One call writes all its elements, row-major, with the method for its
   * type; longs are also the bits of UINT64, shorts those of FP16, and so on. What does not suit
   * the input's type or shape is refused.
   */
  public static final class Input {
    private final Signature.Tensor tensor;
    private ByteBuffer bytes = ByteBuffer.allocate(64).order(ByteOrder.LITTLE_ENDIAN);
    private boolean written;
    private int[] shape;

    private Input(Signature.Tensor tensor) {
      this.tensor = tensor;
    }

    /**
     * Says the size of every dimension. Only an input with two or more dimensions of -1 needs it:
     * the size of a single one follows from the number of elements.
     */
    public Input shape(int... sizes) {
      shape = sizes;
      return this;
    }

    public void floats(float... v) { start('F', v.length); for (float x : v) bytes.putFloat(x); }
    public void doubles(double... v) { start('D', v.length); for (var x : v) bytes.putDouble(x); }
    public void longs(long... v) { start('J', v.length); for (long x : v) bytes.putLong(x); }
    public void ints(int... v) { start('I', v.length); for (int x : v) bytes.putInt(x); }
    public void shorts(short... v) { start('S', v.length); for (short x : v) bytes.putShort(x); }
    public void bytes(byte... v) { start('B', v.length); bytes.put(v); }

    public void booleans(boolean... v) {
      start('Z', v.length);
      for (boolean x : v) {
        bytes.put((byte) (x ? 1 : 0));
      }
    }

    /** Writes elements of BYTES. */
    public void byteArrays(byte[]... v) {
      start('[', v.length);
      for (byte[] x : v) {
        room(4L + x.length);
        bytes.putInt(x.length).put(x);
      }
    }

    /** Writes elements of BYTES: each text in UTF-8. */
    public void strings(String... v) {
      byteArrays(Stream.of(v).map(x -> x.getBytes(StandardCharsets.UTF_8)).toArray(byte[][]::new));
    }

    /** Writes elements that are little-endian already, of any datatype but BYTES. */
    public void raw(byte[] v, int from, int to) {
      refuse(tensor.size == 0 || (to - from) % tensor.size != 0, to - from, "bytes");
      start(tensor.type, (to - from) / tensor.size);
      bytes.put(v, from, to - from);
    }

    /** Checks type and shape, makes room, and writes the sizes of dimensions. */
    private void start(char type, int count) {
      refuse(type != tensor.type, count, "elements of another type");
      refuse(written, count, "elements a second time");
      refuse(shape == null ? tensor.dynamic > 1 : shape.length != tensor.shape.length, count,
          "elements and not the size of each dimension");
      bytes.clear();
      room(4L * tensor.dynamic + (long) tensor.size * count);
      long product = 1;
      for (int d = 0; d < tensor.shape.length; d++) {
        long due = tensor.shape[d];
        long all = Math.max(1, tensor.elements);
        long size = shape != null ? shape[d] : due >= 0 ? due : count / all;
        refuse(size < 0 || due >= 0 && due != size, count, "elements of another shape");
        if (due < 0) {
          bytes.putInt((int) size);
        }
        product = Math.min(MAX + 1L, product * size);
      }
      refuse(product != count, count, "elements, which its shape does not have");
      written = true;
    }

    private void room(long more) {
      long need = bytes.position() + more;
      refuse(need > MAX, need, "bytes");
      if (need > bytes.capacity()) {
        bytes = ByteBuffer.allocate((int) Math.min(MAX, 2 * need)).order(ByteOrder.LITTLE_ENDIAN)
            .put(bytes.flip());
      }
    }

    private void refuse(boolean wrong, long n, String what) {
      if (wrong) {
        throw new IllegalArgumentException("the input " + tensor + " got " + n + " " + what
            + (shape == null ? "" : "; the shape was said to be " + Arrays.toString(shape)));
      }
    }
  }

  /** Writes the row as one JSON object, for the form json. */
  void whole(byte[] json) { whole = json; }

  /** Forgets the record before. */
  void clear() {
    whole = null;
    for (Input i : inputs) {
      i.written = false;
      i.shape = null;
    }
  }

  /** Returns the row, behind some bytes that are left free. */
  byte[] row(int free) {
    if (whole != null) {
      return ByteBuffer.allocate(free + whole.length).position(free).put(whole).array();
    }
    long length = free;
    for (Input i : inputs) {
      i.refuse(!i.written, 0, "elements");
      length += i.bytes.position();
    }
    ByteBuffer row = ByteBuffer.allocate(Math.toIntExact(length)).position(free);
    for (Input i : inputs) {
      row.put(i.bytes.array(), 0, i.bytes.position());
    }
    return row.array();
  }
}
