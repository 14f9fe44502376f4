package com.github.tensorferry.flink.internal;

import com.github.tensorferry.flink.*;
import java.io.Closeable;
import java.util.*;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.locks.Condition;
import java.util.concurrent.locks.ReentrantLock;
import javax.net.ssl.SSLContext;

/**
 * The calls of one parallel subtask to a ferry. It keeps a connection, opens another one when that
 * is lost, and sends again what had no answer. It does not batch, retry or judge.
 *
 * <p>One thread keeps the connection and its times. Each connection has a thread that reads and one
 * that writes. Whoever calls does not wait.
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
  final ReentrantLock lock = new ReentrantLock();
  /** Calls that are on no connection, by id. */
  final TreeMap<Long, Call> waiting = new TreeMap<>();
  private final Condition changed = lock.newCondition();
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
  public Signature open() throws SidecarException, InterruptedException {
    lock.lockInterruptibly();
    try {
      spawn("keeper", this::keep);
      while (signature == null && failure == null) {
        changed.await();
      }
      if (failure != null) {
        throw failure;
      }
      return signature;
    } finally {
      lock.unlock();
    }
  }

  /** Makes a call. Its frame has room for the header of a CALL in front of the row. */
  public void call(long id, byte[] frame) {
    Frames.callHeader(frame, id);
    lock.lock();
    waiting.put(id, new Call(frame));
    wake();
    lock.unlock();
  }

  /** Says that nobody wants a call's answer any longer. The listener hears nothing of it then. */
  public void cancel(long id) {
    lock.lock();
    if (waiting.remove(id) == null) {
      connections.forEach(c -> c.cancel(id));
    }
    lock.unlock();
  }

  /** Reports whether calls make no progress: no ferry is there, or it holds them. */
  public boolean isAway() {
    lock.lock();
    try {
      return connections.stream().allMatch(c -> c.welcome == null || c.held);
    } finally {
      lock.unlock();
    }
  }

  /** Ends the connections and threads. What is unanswered is cancelled. */
  @Override public void close() {
    boolean interrupted = false;
    lock.lock();
    try {
      closed = true;
      changed.signalAll();
      long nanos = TimeUnit.SECONDS.toNanos(1);
      boolean done = waiting.isEmpty() && connections.stream().allMatch(Connection::end);
      while (done && nanos > 0 && !connections.isEmpty()) {
        nanos = changed.awaitNanos(nanos);
      }
    } catch (InterruptedException e) {
      interrupted = true;
    }
    List.copyOf(connections).forEach(c -> c.close(null));
    List<Thread> left = List.copyOf(threads);
    lock.unlock();
    long until = System.nanoTime() + TimeUnit.SECONDS.toNanos(10);
    for (Thread t : left) {
      while (t.isAlive() && System.nanoTime() < until) {
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
  private void keep() {
    lock.lock();
    try {
      long last = System.nanoTime();
      while (!closed && failure == null) {
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
        List.copyOf(connections).forEach(c -> c.check(now));
        long pause = TimeUnit.MILLISECONDS.toNanos(Math.min(250, config.pingMillis / 2 + 1));
        changed.awaitNanos(current == null ? Math.min(pause, nextTry - now) : pause);
      }
    } catch (InterruptedException e) {
      Thread.currentThread().interrupt();
    } finally {
      lock.unlock();
    }
  }

  /** Returns a failure that is found on this side. */
  public Failure local(String failureClass, String code, String text) {
    Failure f = Failure.of(failureClass, code, text);
    f.model = signature == null ? "" : signature.model;
    f.endpoint = config.endpoint;
    return f;
  }

  // Connections call what follows, and hold the lock.

  /** Ends everything. The listener hears of it once. */
  void fail(Failure why) {
    if (!closed && failure == null) {
      failure = new SidecarException(why, null);
      List.copyOf(connections).forEach(c -> c.close(null));
      changed.signalAll();
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
    changed.signalAll();
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
    wake();
    changed.signalAll();
  }

  private void next(boolean atOnce) {
    long millis = Math.min(2000, 50L << Math.min(6, tries++));
    millis -= ThreadLocalRandom.current().nextLong(millis / 2);
    nextTry = System.nanoTime() + (atOnce ? 0 : TimeUnit.MILLISECONDS.toNanos(millis));
    current = null;
    changed.signalAll();
  }

  private void wake() {
    connections.forEach(c -> c.work.signal());
  }

  void spawn(String what, Runnable body) {
    Thread t = new Thread(body, config.name + " " + what);
    t.setDaemon(true);
    threads.removeIf(old -> !old.isAlive());
    threads.add(t);
    t.start();
  }
}
