package com.github.tensorferry.flink;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;

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
  public Input input(int position) {
    return inputs[position];
  }

  /** Returns the input with a name. */
  public Input input(String name) {
    return inputs[Signature.position(signature.inputs, name)];
  }

  /**
   * One input of the row. One call writes all its elements, row-major, with the method for its
   * type; the method for longs also writes the bits of UINT64, and so on. What does not suit the
   * input's type or shape is refused.
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

    public void doubles(double... v) { start('D', v.length); for (double x : v) bytes.putDouble(x); }

    public void longs(long... v) { start('J', v.length); for (long x : v) bytes.putLong(x); }

    public void ints(int... v) { start('I', v.length); for (int x : v) bytes.putInt(x); }

    /** Writes INT16, or the bits of UINT16, FP16 or BF16. */
    public void shorts(short... v) { start('S', v.length); for (short x : v) bytes.putShort(x); }

    public void bytes(byte... v) { start('B', v.length); bytes.put(v); }

    public void booleans(boolean... v) {
      start('Z', v.length);
      for (boolean x : v) {
        bytes.put((byte) (x ? 1 : 0));
      }
    }

    /** Writes elements of BYTES. */
    public void byteArrays(byte[]... v) { start('[', v.length); for (byte[] x : v) element(x); }

    /** Writes elements of BYTES: each text in UTF-8. */
    public void strings(String... v) {
      start('[', v.length);
      for (String x : v) {
        element(x.getBytes(StandardCharsets.UTF_8));
      }
    }

    /** Writes elements that are little-endian already, of any datatype but BYTES. */
    public void raw(byte[] v, int from, int to) {
      refuse(tensor.size == 0 || (to - from) % tensor.size != 0, (to - from) + " bytes");
      start(tensor.type, (to - from) / tensor.size);
      bytes.put(v, from, to - from);
    }

    /** Checks type and shape, makes room, and writes the sizes of dimensions. */
    private void start(char type, int count) {
      refuse(type != tensor.type, "values of another type");
      refuse(written, "values a second time");
      written = true;
      bytes.clear();
      room(4L * tensor.dynamic + (long) tensor.size * count);
      if (shape != null) {
        long product = 1;
        refuse(shape.length != tensor.shape.length, "the shape " + Arrays.toString(shape));
        for (int d = 0; d < shape.length; d++) {
          if (tensor.shape[d] == -1) {
            bytes.putInt(shape[d]);
          }
          product *= shape[d];
          refuse(shape[d] < 0 || product > MAX || tensor.shape[d] >= 0 && tensor.shape[d] != shape[d],
              "the shape " + Arrays.toString(shape));
        }
        refuse(product != count, count + " elements for the shape " + Arrays.toString(shape));
      } else if (tensor.dynamic == 1 && tensor.elements > 0) {
        bytes.putInt((int) (count / tensor.elements));
        refuse(count % tensor.elements != 0, count + " elements");
      } else {
        refuse(tensor.dynamic > 0, "no shape, which it needs");
        refuse(count != tensor.elements, count + " elements");
      }
    }

    private void element(byte[] v) {
      room(4L + v.length);
      bytes.putInt(v.length).put(v);
    }

    private void room(long more) {
      long need = bytes.position() + more;
      refuse(need > MAX, "values that are too long");
      if (need > bytes.capacity()) {
        bytes = ByteBuffer.allocate((int) Math.min(MAX, 2 * need)).order(ByteOrder.LITTLE_ENDIAN)
            .put(bytes.flip());
      }
    }

    private void refuse(boolean wrong, String what) {
      if (wrong) {
        throw new IllegalArgumentException("the input " + tensor + " got " + what);
      }
    }
  }

  /** Writes the row as one JSON object, for the form json. */
  void whole(byte[] json) {
    whole = json;
  }

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
      i.refuse(!i.written, "no values");
      length += i.bytes.position();
    }
    ByteBuffer row = ByteBuffer.allocate(Math.toIntExact(length)).position(free);
    for (Input i : inputs) {
      row.put(i.bytes.array(), 0, i.bytes.position());
    }
    return row.array();
  }
}
