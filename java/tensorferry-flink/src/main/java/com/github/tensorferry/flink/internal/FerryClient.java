package com.github.tensorferry.flink.internal;

import com.github.tensorferry.flink.*;
import java.io.Closeable;
import java.util.*;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import javax.net.ssl.SSLContext;

/**
 * The calls of one parallel subtask to a ferry. It keeps a connection, opens another one when that
 * is lost, and sends again what had no answer. It does not batch, retry or judge.
 *
 * <p>One thread keeps the connection and its times. Each connection has a thread that reads and one
 * that writes. Whoever calls does not wait. The monitor guards the fields of all connections too.
 */
public final class FerryClient implements Closeable {
  /** Hears of answers. The client's threads call it, so it must not wait. */
  public interface Listener {
    /** A call has its answer: a row, or why there is none. */
    void answer(long id, byte[] row, Failure failure);

    /** The connection has changed, or what the ferry holds. */
    void changed();

    /** There will be no more answers. */
    void failed(SidecarException cause);
  }

  /** What a client is made with. */
  public static final class Config {
    public String name = "tensorferry";
    public String endpoint;
    public byte[] hello;
    public SSLContext tls;
    public long holdMillis = 60_000;
    public int maxFrame = 256 << 20;
    long pingMillis = 10_000;
    long silenceMillis = 30_000;
  }

  /** A call without an answer. */
  static final class Call {
    final byte[] frame;
    long sent;
    boolean cancelled;

    Call(byte[] frame) {
      this.frame = frame;
    }
  }

  public final Stats stats = new Stats();
  final Config config;
  final Listener listener;
  /** Calls that are on no connection, by id. */
  final TreeMap<Long, Call> waiting = new TreeMap<>();
  private final List<Thread> threads = new ArrayList<>();
  private final List<Connection> connections = new ArrayList<>();
  /** The connection for new calls. The others drain. */
  private Connection current;
  private Signature signature;
  private SidecarException failure;
  private boolean closed;
  private int tries;
  private long nextTry = System.nanoTime();
  /** How long no ferry has been there, since the last answer. */
  private long awayNanos;
  private String lastLoss = "none was reached";

  public FerryClient(Config config, Listener listener) {
    Transport.isUnix(config.endpoint);
    this.config = config;
    this.listener = listener;
  }

  /** Connects, and waits until the ferry knows the model. */
  public synchronized Signature open() throws SidecarException, InterruptedException {
    spawn("keeper", this::keep);
    while (signature == null && failure == null) {
      wait();
    }
    if (failure != null) {
      throw failure;
    }
    return signature;
  }

  /** Makes a call. Its frame has room for the header of a CALL in front of the row. */
  public synchronized void call(long id, byte[] frame) {
    Frames.callHeader(frame, id);
    waiting.put(id, new Call(frame));
    connections.forEach(Connection::wake);
  }

  /** Says that nobody wants a call's answer any longer. The listener hears nothing of it then. */
  public synchronized void cancel(long id) {
    if (waiting.remove(id) == null) {
      connections.forEach(c -> c.cancel(id));
    }
  }

  /** Reports whether calls make no progress: no ferry is there, or it holds them. */
  public synchronized boolean isAway() {
    return connections.stream().allMatch(c -> c.welcome == null || c.held);
  }

  /** Ends the connections and threads. What is unanswered is cancelled. */
  @Override public void close() {
    boolean interrupted = Thread.interrupted();
    long now = System.nanoTime();
    List<Thread> left;
    synchronized (this) {
      closed = true;
      notifyAll();
      boolean done = waiting.isEmpty() && connections.stream().allMatch(Connection::end);
      while (done && !interrupted && !connections.isEmpty() && millisSince(now) < 1000) {
        interrupted = pause(100);
      }
      List.copyOf(connections).forEach(c -> c.close(null));
      left = List.copyOf(threads);
    }
    for (Thread t : left) {
      while (t.isAlive() && millisSince(now) < 10_000) {
        try {
          t.join(1000);
        } catch (InterruptedException e) {
          interrupted = true;
        }
      }
    }
    if (interrupted) {
      Thread.currentThread().interrupt();
    }
  }

  /** Connects when it is time, and gives up what has been silent or away for too long. */
  private synchronized void keep() {
    for (long last = System.nanoTime(); !closed && failure == null; ) {
      long now = System.nanoTime();
      awayNanos += current == null || !current.there ? now - last : 0;
      last = now;
      long away = TimeUnit.NANOSECONDS.toMillis(awayNanos);
      if (away >= config.holdMillis) {
        fail(local("transport", "UNAVAILABLE", "no ferry at " + config.endpoint + " for " + away
            + " ms; see that it runs and can be reached; last: " + lastLoss));
        return;
      }
      if (current == null && now - nextTry >= 0) {
        current = new Connection(this);
        connections.add(current);
      }
      List.copyOf(connections).forEach(Connection::check);
      long most = Math.min(250, config.pingMillis / 2 + 1);
      pause(current != null ? most : Math.max(1, Math.min(most, -millisSince(nextTry))));
    }
  }

  /** Returns a failure that is found on this side. */
  public Failure local(String failureClass, String code, String text) {
    Failure f = Failure.of(failureClass, code, text);
    f.model = signature == null ? "" : signature.model;
    f.endpoint = config.endpoint;
    return f;
  }

  // Connections call what follows, and own the monitor.

  /** Ends everything. The listener hears of it once. */
  void fail(Failure why) {
    if (!closed && failure == null) {
      failure = new SidecarException(why, null);
      List.copyOf(connections).forEach(c -> c.close(null));
      notifyAll();
      listener.failed(failure);
    }
  }

  /** Takes the model of a new connection. What was encoded for one does not suit another one. */
  void welcome(Signature s) throws SidecarException {
    if (signature != null && !s.toString().equals(signature.toString())) {
      throw new SidecarException(local("permanent", "FAILED_PRECONDITION",
          "the model has " + s + " now, and had " + signature + "; start the job again"), null);
    }
    signature = s;
    if (waiting.isEmpty() && connections.size() == 1) {
      progress();
    }
    notifyAll();
  }

  /** A ferry does its work, so what was away before is forgotten. */
  void progress() {
    tries = 0;
    awayNanos = 0;
  }

  /** A connection takes no new calls any longer: another one does. */
  void drain(Connection c) {
    if (c == current) {
      next(tries == 0);
    }
  }

  /** A connection was closed. What has no answer is called again. */
  void closed(Connection c, String why) {
    c.sent.values().removeIf(call -> call.cancelled);
    waiting.putAll(c.sent);
    c.sent.clear();
    connections.remove(c);
    if (c == current) {
      lastLoss = why == null ? lastLoss : why;
      next(false);
    }
    connections.forEach(Connection::wake);
    notifyAll();
  }

  private void next(boolean atOnce) {
    long millis = Math.min(2000, 50L << Math.min(6, tries++));
    millis -= ThreadLocalRandom.current().nextLong(millis / 2);
    nextTry = System.nanoTime() + (atOnce ? 0 : TimeUnit.MILLISECONDS.toNanos(millis));
    current = null;
    notifyAll();
  }

  Thread spawn(String what, Runnable body) {
    Thread t = new Thread(body, config.name + " " + what);
    t.setDaemon(true);
    threads.removeIf(old -> !old.isAlive());
    threads.add(t);
    t.start();
    return t;
  }

  static long millisSince(long nanoTime) {
    return TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - nanoTime);
  }

  /** Waits for a change, and reports whether it was interrupted. */
  private boolean pause(long millis) {
    try {
      wait(millis);
      return false;
    } catch (InterruptedException e) {
      return true;
    }
  }
}
