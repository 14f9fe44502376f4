package com.github.tensorferry.flink;

/** A record, or the whole subtask, gets no result. {@link #failure} has the details. */
public final class SidecarException extends Exception {
  private static final long serialVersionUID = 1;

  public final Failure failure;

  public SidecarException(Failure failure, Throwable cause) {
    super(failure.toString(), cause);
    this.failure = failure;
  }
}
