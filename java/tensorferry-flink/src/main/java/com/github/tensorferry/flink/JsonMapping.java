package com.github.tensorferry.flink;

import java.nio.charset.StandardCharsets;
import java.util.*;

/**
 * The codec of records that are JSON objects, for a stream of strings. The ferry reads the fields
 * and adds those of the outputs, as docs/job.md says; nothing is parsed here. Tensors without a
 * mapping have the fields of their names.
 */
public final class JsonMapping implements TensorCodec<String, String> {
  private static final long serialVersionUID = 1;

  /** The keys inputs, outputs and overwrite of the section infer. */
  final TreeMap<String, Object> infer = new TreeMap<>();
  private final TreeMap<String, Object> inputs = new TreeMap<>();
  private final TreeMap<String, Object> outputs = new TreeMap<>();

  /** Takes the model's input from a field. Dots lead into objects. */
  public JsonMapping input(String tensor, String field) {
    inputs.put(tensor, new TreeMap<>(Map.of("field", field)));
    infer.put("inputs", inputs);
    return this;
  }

  /** Puts the model's output into a field. */
  public JsonMapping output(String tensor, String field) {
    outputs.put(tensor, new TreeMap<>(Map.of("field", field)));
    infer.put("outputs", outputs);
    return this;
  }

  /** Lets outputs replace fields that are there already. */
  public JsonMapping overwrite() {
    infer.put("overwrite", true);
    return this;
  }

  @Override public void encode(String in, RowWriter row) {
    row.whole(in.getBytes(StandardCharsets.UTF_8));
  }

  @Override public String decode(String in, RowReader row) {
    return new String(row.whole(), StandardCharsets.UTF_8);
  }
}
