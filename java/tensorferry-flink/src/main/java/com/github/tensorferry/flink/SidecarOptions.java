package com.github.tensorferry.flink;

import com.github.tensorferry.flink.internal.FerryClient;
import com.github.tensorferry.flink.internal.Frames;
import java.io.Serializable;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.*;
import javax.net.ssl.SSLContext;
import org.apache.flink.util.function.SerializableSupplier;

/**
 * Builds what a job says of its ferry: where it is, and what it shall do. What is not set has the
 * ferry's default, as docs/job.md says.
 */
public final class SidecarOptions implements Serializable {
  private static final long serialVersionUID = 1;

  final String endpoint;
  final TreeMap<String, Object> onError = new TreeMap<>();
  int capacity = 1000;
  long drainMillis = 10_000;
  private final TreeMap<String, Object> infer = new TreeMap<>();
  private long holdMillis = 60_000;
  private int maxFrame = 256 << 20;
  private SerializableSupplier<SSLContext> tls = () -> null;

  /** Begins with the ferry's endpoint: unix:///absolute/path.sock, host:port or [v6]:port. */
  public SidecarOptions(String endpoint) {
    this.endpoint = endpoint;
    new FerryClient(client("", 0, 1, "", null), null);
  }

  /** The model's name. */
  public SidecarOptions model(String name) { return infer("model", name); }

  /** The records in flight, in each parallel subtask; default 1000. */
  public SidecarOptions capacity(int records) {
    if (records < 1) {
      throw new IllegalArgumentException("capacity " + records + "; it must be at least 1");
    }
    capacity = records;
    return this;
  }

  /** The time of a record, over all attempts. */
  public SidecarOptions timeout(Duration time) { return infer("timeout", time.toMillis() + "ms"); }

  /** How long a job waits for a ferry, and a record for its model server; default 1 minute. */
  public SidecarOptions hold(Duration hold) {
    holdMillis = hold.toMillis();
    return infer("hold", holdMillis + "ms");
  }

  /** How long a barrier waits for results under ordered; default 10 s, and 0 does not wait. */
  public SidecarOptions drainLimit(Duration limit) {
    drainMillis = limit.toMillis();
    return this;
  }

  /** What becomes of records of a class of failure: fail, drop or dead_letter. */
  public SidecarOptions onError(String failureClass, Object action) {
    onError.put(failureClass, action);
    return infer("on_error", onError);
  }

  /** Any key of the section infer of docs/job.md: a text, number, boolean, map or list. */
  public SidecarOptions infer(String key, Object value) {
    infer.put(key, value);
    return this;
  }

  /** The longest frame that is taken from the ferry; default 256 MiB. */
  public SidecarOptions maxFrame(int bytes) {
    maxFrame = bytes;
    return this;
  }

  /** TLS, for a ferry on TCP. The supplier runs on the TaskManager. */
  public SidecarOptions tls(SerializableSupplier<SSLContext> context) {
    tls = context;
    return this;
  }

  /** Returns what the client of a subtask is made with. */
  FerryClient.Config client(
      String job, int subtask, int parallelism, String name, TensorCodec<?, ?> codec) {
    Map<String, Object> all = new TreeMap<>(infer);
    all.putIfAbsent("capacity", capacity);
    if (codec instanceof JsonMapping) {
      all.putAll(((JsonMapping) codec).infer);
    }
    FerryClient.Config c = new FerryClient.Config();
    c.endpoint = endpoint;
    c.hello = json(Map.of("version", Frames.VERSION, "client", "tensorferry-flink 0.1.0",
        "job", job, "operator", name, "subtask", subtask, "parallelism", parallelism,
        "form", codec instanceof JsonMapping ? "json" : "rows", "infer", all))
        .getBytes(StandardCharsets.UTF_8);
    c.tls = tls.get();
    c.holdMillis = holdMillis;
    c.maxFrame = maxFrame;
    c.name = "tensorferry " + name + " " + (subtask + 1) + "/" + parallelism;
    return c;
  }

  private static String json(Object v) {
    StringJoiner list = new StringJoiner(",");
    if (v instanceof Map) {
      new TreeMap<>((Map<?, ?>) v).forEach((k, x) -> list.add(json(k) + ":" + json(x)));
      return "{" + list + "}";
    }
    if (v instanceof Iterable) {
      ((Iterable<?>) v).forEach(x -> list.add(json(x)));
      return "[" + list + "]";
    }
    if (v instanceof Number || v instanceof Boolean) {
      return v.toString();
    }
    StringBuilder s = new StringBuilder("\"");
    for (char c : v.toString().toCharArray()) {
      s.append(c < ' ' || c == '"' || c == '\\' ? String.format("\\u%04x", (int) c) : c);
    }
    return s.append('"').toString();
  }
}
