package tensorferry.asyncjob;

import com.google.protobuf.ByteString;
import com.google.protobuf.UnsafeByteOperations;
import inference.GRPCInferenceServiceGrpc;
import inference.GRPCInferenceServiceGrpc.GRPCInferenceServiceStub;
import inference.Inference.ModelInferRequest;
import inference.Inference.ModelInferRequest.InferInputTensor;
import inference.Inference.ModelInferResponse;
import io.grpc.ManagedChannel;
import io.grpc.netty.shaded.io.grpc.netty.NettyChannelBuilder;
import io.grpc.stub.StreamObserver;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.Collections;
import java.util.concurrent.TimeUnit;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.streaming.api.functions.async.ResultFuture;
import org.apache.flink.streaming.api.functions.async.RichAsyncFunction;

/** Asks the model: one request for each element, as Flink's users do it. */
final class Infer extends RichAsyncFunction<Rows, Rows> {
  private static final long serialVersionUID = 1;

  private final String endpoint;
  private final long timeoutMillis;
  private transient ManagedChannel channel;
  private transient GRPCInferenceServiceStub stub;

  Infer(String endpoint, long timeoutMillis) {
    this.endpoint = endpoint;
    this.timeoutMillis = timeoutMillis;
  }

  @Override
  public void open(Configuration parameters) {
    // The answer is handed on where it arrives: nothing here blocks, and a thread more would cost.
    channel = NettyChannelBuilder.forTarget(endpoint).usePlaintext().directExecutor().build();
    stub = GRPCInferenceServiceGrpc.newStub(channel);
  }

  @Override
  public void close() throws Exception {
    if (channel != null) {
      channel.shutdownNow().awaitTermination(10, TimeUnit.SECONDS);
    }
  }

  @Override
  public void asyncInvoke(Rows rows, ResultFuture<Rows> result) {
    stub.withDeadlineAfter(timeoutMillis, TimeUnit.MILLISECONDS)
        .modelInfer(
            request(rows),
            new StreamObserver<ModelInferResponse>() {
              // The operator keeps the element for its checkpoints, so what becomes of it is another object.
              private final Rows answered = new Rows();

              @Override
              public void onNext(ModelInferResponse response) {
                answered.first = rows.first;
                answered.due = rows.due;
                answered.sums = answer(response, rows.due.length);
              }

              @Override
              public void onError(Throwable t) {
                result.completeExceptionally(t);
              }

              @Override
              public void onCompleted() {
                result.complete(Collections.singleton(answered));
              }
            });
  }

  private static ModelInferRequest request(Rows rows) {
    ByteBuffer raw = ByteBuffer.allocate(4 * rows.values.length).order(ByteOrder.LITTLE_ENDIAN);
    raw.asFloatBuffer().put(rows.values);
    int n = rows.due.length;
    return ModelInferRequest.newBuilder()
        .setModelName("model")
        .addInputs(
            InferInputTensor.newBuilder()
                .setName("x")
                .setDatatype("FP32")
                .addShape(n)
                .addShape(rows.values.length / n))
        .addRawInputContents(UnsafeByteOperations.unsafeWrap(raw))
        .build();
  }

  private static double[] answer(ModelInferResponse response, int n) {
    ByteString raw = response.getRawOutputContents(0);
    if (raw.size() != 8 * n) {
      throw new IllegalStateException(raw.size() + " bytes for " + n + " rows");
    }
    double[] sums = new double[n];
    raw.asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN).asDoubleBuffer().get(sums);
    return sums;
  }
}
