package com.github.tensorferry.flink;

import com.github.tensorferry.flink.internal.FerryClient;
import com.github.tensorferry.flink.internal.Frames;
import java.io.InputStream;
import java.io.Serializable;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.time.Duration;
import java.util.*;
import javax.net.ssl.SSLContext;
import javax.net.ssl.TrustManagerFactory;
import org.apache.flink.util.function.SerializableSupplier;

/** Says where the ferry is, and what it shall do. {@link #builder} begins. */
public final class SidecarOptions implements Serializable {
  private static final long serialVersionUID = 1;

  final String endpoint;
  final Map<String, Object> infer;
  final Map<String, Object> onError;
  int capacity = 1000;
  long drainMillis = 10_000;
  private long holdMillis = 60_000;
  private int maxFrame = 256 << 20;
  private SerializableSupplier<SSLContext> tls = () -> null;

  private SidecarOptions(String endpoint) {
    this.endpoint = endpoint;
    infer = new TreeMap<>();
    onError = new TreeMap<>();
  }

  private SidecarOptions(SidecarOptions o) {
    endpoint = o.endpoint;
    infer = new TreeMap<>(o.infer);
    onError = new TreeMap<>(o.onError);
    capacity = o.capacity;
    drainMillis = o.drainMillis;
    holdMillis = o.holdMillis;
    maxFrame = o.maxFrame;
    tls = o.tls;
  }

  /** Begins with the ferry's endpoint: unix:///absolute/path.sock, host:port or [v6]:port. */
  public static Builder builder(String endpoint) {
    return new Builder(endpoint);
  }

  /** Sets options. Those that are not set have the ferry's defaults. */
  public static final class Builder {
    private final SidecarOptions o;

    private Builder(String endpoint) {
      o = new SidecarOptions(endpoint);
    }

    /** The model's name. */
    public Builder model(String name) {
      return infer("model", name);
    }

    /** The records in flight, in each parallel subtask; default 1000. */
    public Builder capacity(int records) {
      o.capacity = records;
      return this;
    }

    /** The time of a record, over all attempts. */
    public Builder timeout(Duration timeout) {
      return infer("timeout", timeout.toMillis() + "ms");
    }

    /** How long a job waits for a ferry, and a record for its model server; default 1 minute. */
    public Builder hold(Duration hold) {
      o.holdMillis = hold.toMillis();
      return infer("hold", hold.toMillis() + "ms");
    }

    /** How long a barrier waits for results under ordered; default 10 s, and 0 does not wait. */
    public Builder drainLimit(Duration limit) {
      o.drainMillis = limit.toMillis();
      return this;
    }

    /** What becomes of records of a class of failure: fail, drop or dead_letter. */
    public Builder onError(String failureClass, Object action) {
      o.onError.put(failureClass, action);
      return infer("on_error", o.onError);
    }

    /** Any key of the section infer of docs/job.md: a text, number, boolean, map or list. */
    public Builder infer(String key, Object value) {
      o.infer.put(key, value);
      return this;
    }

    /** The longest frame that is taken from the ferry; default 256 MiB. */
    public Builder maxFrame(int bytes) {
      o.maxFrame = bytes;
      return this;
    }

    /** TLS to a ferry on TCP, with the certificates of a PEM file that every TaskManager has. */
    public Builder tls(String pemFile) {
      return tls(() -> trust(pemFile));
    }

    /** TLS to a ferry on TCP. The supplier runs on the TaskManager. */
    public Builder tls(SerializableSupplier<SSLContext> context) {
      o.tls = context;
      return this;
    }

    /** Checks the options and returns them. */
    public SidecarOptions build() {
      if (o.capacity < 1) {
        throw new IllegalArgumentException("capacity " + o.capacity + "; it must be at least 1");
      }
      SidecarOptions built = new SidecarOptions(o);
      built.infer.putIfAbsent("capacity", o.capacity);
      new FerryClient(built.client("", 0, 1, "", "rows"), null);
      return built;
    }
  }

  /** Returns the options with what a mapping of JSON says to the ferry. */
  SidecarOptions with(TensorCodec<?, ?> codec) {
    SidecarOptions o = new SidecarOptions(this);
    if (codec instanceof JsonMapping) {
      o.infer.put("inputs", ((JsonMapping) codec).inputs);
      o.infer.put("outputs", ((JsonMapping) codec).outputs);
      o.infer.put("overwrite", ((JsonMapping) codec).overwrite);
    }
    return o;
  }

  /** Returns what a client of one subtask is made with. */
  FerryClient.Config client(String job, int subtask, int parallelism, String name, String form) {
    Map<String, Object> hello = new LinkedHashMap<>();
    hello.put("version", Frames.VERSION);
    hello.put("client", "tensorferry-flink 0.1.0");
    hello.put("job", job);
    hello.put("operator", name);
    hello.put("subtask", subtask);
    hello.put("parallelism", parallelism);
    hello.put("form", form);
    hello.put("infer", infer);
    FerryClient.Config c = new FerryClient.Config();
    c.endpoint = endpoint;
    c.hello = json(hello).getBytes(StandardCharsets.UTF_8);
    c.tls = tls.get();
    c.holdMillis = holdMillis;
    c.maxFrame = maxFrame;
    c.name = "tensorferry " + name + " " + (subtask + 1) + "/" + parallelism;
    return c;
  }

  private static String json(Object v) {
    StringJoiner list = new StringJoiner(",");
    if (v instanceof Map) {
      ((Map<?, ?>) v).forEach((k, x) -> list.add(json(k.toString()) + ":" + json(x)));
      return "{" + list + "}";
    }
    if (v instanceof Iterable) {
      ((Iterable<?>) v).forEach(x -> list.add(json(x)));
      return "[" + list + "]";
    }
    if (v == null || v instanceof Number || v instanceof Boolean) {
      return String.valueOf(v);
    }
    StringBuilder s = new StringBuilder("\"");
    for (char c : v.toString().toCharArray()) {
      s.append(c < ' ' || c == '"' || c == '\\' ? String.format("\\u%04x", (int) c) : c);
    }
    return s.append('"').toString();
  }

  private static SSLContext trust(String pemFile) {
    try (InputStream in = Files.newInputStream(Paths.get(pemFile))) {
      KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
      store.load(null, null);
      for (Certificate c : CertificateFactory.getInstance("X.509").generateCertificates(in)) {
        store.setCertificateEntry("ca" + store.size(), c);
      }
      TrustManagerFactory trust =
          TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
      trust.init(store);
      SSLContext context = SSLContext.getInstance("TLS");
      context.init(null, trust.getTrustManagers(), null);
      return context;
    } catch (Exception e) {
      throw new IllegalArgumentException("no certificates to trust in " + pemFile + ": " + e, e);
    }
  }
}
