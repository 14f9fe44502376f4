package com.github.tensorferry.flink;

import java.util.Arrays;
import java.util.List;

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

  @Override public String toString() {
    return "inputs " + inputs + ", outputs " + outputs;
  }

  /** One input or output. */
  public static final class Tensor {
    public final String name;
    /** The datatype's name in the Open Inference Protocol, such as FP32. */
    public final String datatype;
    final long[] shape;
    /** The Java type of elements, as a letter of Java's descriptors. BYTES has '['. */
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
      type = type(datatype);
      size = type == '[' ? 0 : "BZ".indexOf(type) >= 0 ? 1 : type == 'S' ? 2
          : "IF".indexOf(type) >= 0 ? 4 : 8;
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
    public long[] shape() {
      return shape.clone();
    }

    @Override public String toString() {
      return name + " " + datatype + " " + Arrays.toString(shape);
    }

    private char type(String datatype) {
      switch (datatype) {
        case "BYTES": return '[';
        case "BOOL": return 'Z';
        case "INT8": case "UINT8": return 'B';
        case "INT16": case "UINT16": case "FP16": case "BF16": return 'S';
        case "INT32": case "UINT32": return 'I';
        case "INT64": case "UINT64": return 'J';
        case "FP32": return 'F';
        case "FP64": return 'D';
        default: throw new IllegalArgumentException(this + " has a datatype that is not known");
      }
    }
  }
}
