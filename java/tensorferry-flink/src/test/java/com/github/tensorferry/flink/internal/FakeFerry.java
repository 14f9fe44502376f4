package com.github.tensorferry.flink.internal;

import java.io.BufferedInputStream;
import java.io.Closeable;
import java.io.DataInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import java.util.function.BooleanSupplier;

/**
 * A ferry for tests, on TCP. Its model has an input x and an output y, both INT64 [1], and y is ten
 * times x. A script decides when it answers, and may send anything.
 */
public final class FakeFerry implements Closeable {
  /** What becomes of a call. */
  public interface Script {
    void call(Connection c, Call call) throws IOException;
  }

  /** A call as it came. */
  public static final class Call {
    public final Connection connection;
    public final long id;
    public final byte[] row;

    Call(Connection connection, long id, byte[] row) {
      this.connection = connection;
      this.id = id;
      this.row = row;
    }

    public long value() {
      return ByteBuffer.wrap(row).order(ByteOrder.LITTLE_ENDIAN).getLong();
    }

    public void answer() throws IOException {
      connection.send(Frames.RESULT, id, longs(10 * value()));
    }
  }

  public volatile Script script = (c, call) -> call.answer();
  /** What happens when a client has said HELLO. */
  public volatile Script hello = (c, call) -> c.welcome();
  public volatile byte[] welcome = welcome(1000, 64 << 20, 1 << 20, 1000, 60_000, "x", "y");
  /** Whether it answers PING. */
  public volatile boolean deaf;
  public final List<Connection> connections = new CopyOnWriteArrayList<>();
  /** All calls, on all connections. */
  public final List<Call> calls = new CopyOnWriteArrayList<>();
  private volatile ServerSocket listener;
  private final int port;

  public FakeFerry() throws IOException {
    this(javax.net.ServerSocketFactory.getDefault());
  }

  public FakeFerry(javax.net.ServerSocketFactory factory) throws IOException {
    listener = factory.createServerSocket(0, 50, InetAddress.getByName("127.0.0.1"));
    port = listener.getLocalPort();
    accept();
  }

  public String endpoint() {
    return "127.0.0.1:" + port;
  }

  /** Stops to listen, and closes all connections. */
  public void stop() throws IOException {
    listener.close();
    connections.forEach(Connection::close);
  }

  /** Listens again, where it did before. */
  public void start() throws IOException {
    listener = new ServerSocket();
    listener.setReuseAddress(true);
    listener.bind(new java.net.InetSocketAddress("127.0.0.1", port));
    accept();
  }

  @Override
  public void close() throws IOException {
    stop();
  }

  /** Waits for a connection, counted from 0. */
  public Connection connection(int n) throws Exception {
    until("connection " + n, () -> connections.size() > n);
    return connections.get(n);
  }

  /** Waits until so many calls have come. */
  public void awaitCalls(int n) throws Exception {
    until(n + " calls", () -> calls.size() >= n);
  }

  /** Answers all calls that have come and have no answer. */
  public void answerAll() throws IOException {
    for (Call c : calls) {
      if (!c.connection.answered.contains(c.id)) {
        c.answer();
      }
    }
  }

  /** Returns how many connections are open. */
  public long open() {
    return connections.stream().filter(c -> !c.gone).count();
  }

  public static void until(String what, BooleanSupplier condition) throws Exception {
    long end = System.nanoTime() + 30_000_000_000L;
    while (!condition.getAsBoolean()) {
      if (System.nanoTime() > end) {
        throw new AssertionError("never came: " + what);
      }
      Thread.sleep(2);
    }
  }

  private void accept() {
    ServerSocket from = listener;
    daemon("fake ferry", () -> {
      while (true) {
        Connection c = new Connection(from.accept());
        connections.add(c);
        daemon("fake connection", c::read);
      }
    });
  }

  private interface Body {
    void run() throws Exception;
  }

  private static void daemon(String name, Body body) {
    Thread t = new Thread(() -> {
      try {
        body.run();
      } catch (Exception e) {
        // The test has closed it, or the client has.
      }
    }, name);
    t.setDaemon(true);
    t.start();
  }

  /** One connection, as the ferry sees it. */
  public final class Connection {
    public final List<Long> cancelled = new CopyOnWriteArrayList<>();
    public final List<Long> answered = new CopyOnWriteArrayList<>();
    public volatile String hello = "";
    public volatile boolean ended;
    public volatile boolean gone;
    public volatile int pings;
    public volatile int pongs;
    private final Socket socket;

    Connection(Socket socket) throws IOException {
      this.socket = socket;
    }

    public void send(int kind, long id, byte... payload) throws IOException {
      if (kind == Frames.RESULT || kind == Frames.FAILURE || kind == Frames.CANCELLED) {
        answered.add(id);
      }
      raw(Frames.frame(kind, id, payload));
    }

    public synchronized void raw(byte... bytes) throws IOException {
      OutputStream out = socket.getOutputStream();
      out.write(bytes);
      out.flush();
    }

    public void welcome() throws IOException {
      send(Frames.WELCOME, 0, welcome);
    }

    public void fail(long id, int action, int failureClass, String code, String text)
        throws IOException {
      send(Frames.FAILURE, id, failure(action, failureClass, code, text));
    }

    public void close() {
      try {
        socket.close();
      } catch (IOException e) {
        // It is closed all the same.
      }
    }

    void read() throws Exception {
      try {
        InputStream buffered = new BufferedInputStream(socket.getInputStream());
        DataInputStream in = new DataInputStream(buffered);
        byte[] magic = new byte[8];
        in.readFully(magic);
        if (!Arrays.equals(magic, Frames.MAGIC)) {
          throw new IOException("no magic");
        }
        while (true) {
          take(Frames.read(buffered, 1 << 30));
        }
      } finally {
        gone = true;
        close();
      }
    }

    private void take(Frames.Frame f) throws IOException {
      switch (f.kind) {
        case Frames.HELLO:
          hello = new String(f.payload, StandardCharsets.UTF_8);
          FakeFerry.this.hello.call(this, null);
          break;
        case Frames.CALL:
          Call call = new Call(this, f.id, Arrays.copyOfRange(f.payload, 4, f.payload.length));
          calls.add(call);
          script.call(this, call);
          break;
        case Frames.CANCEL:
          cancelled.add(f.id);
          if (!answered.contains(f.id)) {
            send(Frames.CANCELLED, f.id);
          }
          break;
        case Frames.END:
          ended = true;
          send(Frames.END, 0);
          close();
          break;
        case Frames.PING:
          pings++;
          if (!deaf) {
            send(Frames.PONG, f.id);
          }
          break;
        case Frames.PONG:
          pongs++;
          break;
        default:
          throw new IOException("kind " + f.kind);
      }
    }
  }

  public static byte[] longs(long... values) {
    ByteBuffer b = ByteBuffer.allocate(8 * values.length).order(ByteOrder.LITTLE_ENDIAN);
    for (long v : values) {
      b.putLong(v);
    }
    return b.array();
  }

  public static byte[] text(String s) {
    byte[] b = s.getBytes(StandardCharsets.UTF_8);
    return ByteBuffer.allocate(4 + b.length).order(ByteOrder.LITTLE_ENDIAN).putInt(b.length).put(b)
        .array();
  }

  public static byte[] failure(int action, int failureClass, String code, String text) {
    return join(new byte[] {(byte) action, (byte) failureClass, 1, 0, 0, 0}, text(code), text("R"),
        text(text), text("server:1"), text("r-7"));
  }

  public static byte[] credit(int rows, long bytes) {
    return ByteBuffer.allocate(12).order(ByteOrder.LITTLE_ENDIAN).putInt(rows).putLong(bytes)
        .array();
  }

  public static byte[] welcome(
      int rows, long bytes, int frame, long timeout, long hold, String input, String output) {
    byte[] head = ByteBuffer.allocate(34).order(ByteOrder.LITTLE_ENDIAN).putShort((short) 1)
        .putInt(rows).putLong(bytes).putInt(frame).putLong(timeout).putLong(hold).array();
    byte[] one = {1, 0};
    return join(head, text("tenfold"), text(""), one, text(input), text("INT64"), one, longs(1),
        one, text(output), text("INT64"), one, longs(1));
  }

  public static byte[] join(byte[]... parts) {
    List<Byte> all = new ArrayList<>();
    for (byte[] p : parts) {
      for (byte b : p) {
        all.add(b);
      }
    }
    byte[] joined = new byte[all.size()];
    for (int i = 0; i < joined.length; i++) {
      joined[i] = all.get(i);
    }
    return joined;
  }
}
