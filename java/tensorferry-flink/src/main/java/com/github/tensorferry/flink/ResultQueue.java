package com.github.tensorferry.flink;

import java.util.*;

/**
 * The records of an operator that have not left it, and the watermarks among them. It decides what
 * may leave. A watermark waits for all records before it, and those behind it wait for the
 * watermark. Records with the same key leave in the order in which they came.
 */
final class ResultQueue<IN, OUT> {
  /** A record, and then its result. */
  static final class Entry<IN, OUT> {
    final IN in;
    final long timestamp;
    /** Entries of the same key keep their order. With null the order is free. */
    final Object key;
    long id;
    OUT out;
    Failure dead;
    private boolean done, behind;
    private Entry<IN, OUT> next;
    private Segment<IN, OUT> segment;

    Entry(IN in, long timestamp, Object key) {
      this.in = in;
      this.timestamp = timestamp;
      this.key = key;
    }
  }

  /** The records between two watermarks, and the watermark at their end. */
  private static final class Segment<IN, OUT> {
    final ArrayDeque<Entry<IN, OUT>> ready = new ArrayDeque<>();
    int open;
    Object mark;
  }

  private final LinkedHashMap<Long, Entry<IN, OUT>> entries = new LinkedHashMap<>();
  private final Map<Object, Entry<IN, OUT>> newest = new HashMap<>();
  private final ArrayDeque<Segment<IN, OUT>> segments = new ArrayDeque<>();
  private long lastId;

  /** Returns the records in the order in which they came. */
  Collection<Entry<IN, OUT>> entries() { return entries.values(); }

  int size() { return entries.size(); }

  Entry<IN, OUT> get(long id) { return entries.get(id); }

  void add(Entry<IN, OUT> e) {
    e.id = ++lastId;
    if (segments.isEmpty() || segments.getLast().mark != null) {
      segments.add(new Segment<>());
    }
    e.segment = segments.getLast();
    e.segment.open++;
    entries.put(e.id, e);
    Entry<IN, OUT> before = e.key == null ? null : newest.put(e.key, e);
    if (before != null) {
      before.next = e;
      e.behind = true;
    }
  }

  /** Adds a watermark or a status. One right behind another of its kind replaces that. */
  void mark(Object mark) {
    Segment<IN, OUT> last = segments.peekLast();
    if (last == null || last.mark != null && last.mark.getClass() != mark.getClass()) {
      segments.add(last = new Segment<>());
    }
    last.mark = mark;
  }

  /** Says that a record has its result, or that it has none. */
  void done(Entry<IN, OUT> e) {
    e.done = true;
    if (!e.behind) {
      e.segment.ready.add(e);
    }
  }

  /** Takes what leaves next, an entry or a mark, or returns null. */
  Object poll() {
    Segment<IN, OUT> first = segments.peek();
    if (first == null) {
      return null;
    }
    Entry<IN, OUT> e = first.ready.poll();
    if (e == null) {
      return first.open == 0 && first.mark != null ? segments.poll().mark : null;
    }
    first.open--;
    entries.remove(e.id);
    if (e.next != null) {
      e.next.behind = false;
      if (e.next.done) {
        e.next.segment.ready.add(e.next);
      }
    } else if (e.key != null) {
      newest.remove(e.key);
    }
    return e;
  }
}
