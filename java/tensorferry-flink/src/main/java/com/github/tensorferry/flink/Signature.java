package com.github.tensorferry.flink;

import java.util.Arrays;
import java.util.List;
import java.util.stream.Stream;

/** What the model takes and gives for one row: its inputs and outputs, without the batch. */
public final class Signature {
  public final String model;
  /** The model's version. It is empty if the server chooses. */
  public final String modelVersion;
  public final List<Tensor> inputs;
  public final List<Tensor> outputs;

  public Signature(String model, String modelVersion, List<Tensor> inputs, List<Tensor> outputs) {
    this.model = model;
    this.modelVersion = modelVersion;
    this.inputs = List.copyOf(inputs);
    this.outputs = List.copyOf(outputs);
  }

  /** Returns the position of the tensor with a name. The message of the exception has all names. */
  static int position(List<Tensor> tensors, String name) {
    for (int i = 0; i < tensors.size(); i++) {
      if (tensors.get(i).name.equals(name)) {
        return i;
      }
    }
    throw new IllegalArgumentException("the model has no \"" + name + "\", but " + tensors);
  }

  @Override public String toString() { return "inputs " + inputs + ", outputs " + outputs; }

  /** One input or output. */
  public static final class Tensor {
    /** Datatypes by the Java type of their elements: a letter, the bytes, and the names. */
    private static final String[] TYPES = {"[0 BYTES ", "Z1 BOOL ", "B1 INT8 UINT8 ",
        "S2 INT16 UINT16 FP16 BF16 ", "I4 INT32 UINT32 ", "J8 INT64 UINT64 ", "F4 FP32 ",
        "D8 FP64 "};

    public final String name;
    /** The datatype's name in the Open Inference Protocol, such as FP32. */
    public final String datatype;
    final long[] shape;
    final char type;
    /** The bytes of an element. BYTES has 0, since each element has a length of its own. */
    final int size;
    /** The number of dimensions of -1, and the product of the others. */
    final int dynamic;
    final long elements;

    /** Makes a tensor. A dimension of -1 has any size. */
    public Tensor(String name, String datatype, long... shape) {
      this.name = name;
      this.datatype = datatype;
      this.shape = shape.clone();
      String due = datatype.contains(" ") ? "" : " " + datatype + " ";
      String known = Stream.of(TYPES).filter(t -> !due.isEmpty() && t.contains(due)).findAny()
          .orElseThrow(() -> new IllegalArgumentException(this + " has an unknown datatype"));
      type = known.charAt(0);
      size = known.charAt(1) - '0';
      dynamic = (int) Arrays.stream(shape).filter(d -> d == -1).count();
      long product = 1;
      for (long d : shape) {
        product *= d == -1 ? 1 : d;
        if (d < -1 || d > Integer.MAX_VALUE || product > Integer.MAX_VALUE) {
          throw new IllegalArgumentException(this + " has a shape that no row can have");
        }
      }
      elements = product;
    }

    /** Returns the sizes of the dimensions of one row. */
    public long[] shape() { return shape.clone(); }

    @Override public String toString() {
      return name + " " + datatype + " " + Arrays.toString(shape);
    }
  }
}
