package tensorferry.asyncjob;

import java.util.concurrent.TimeUnit;
import org.apache.flink.api.common.eventtime.WatermarkStrategy;
import org.apache.flink.api.common.typeinfo.TypeInformation;
import org.apache.flink.api.connector.source.util.ratelimit.RateLimiterStrategy;
import org.apache.flink.api.java.utils.ParameterTool;
import org.apache.flink.connector.datagen.source.DataGeneratorSource;
import org.apache.flink.streaming.api.datastream.AsyncDataStream;
import org.apache.flink.streaming.api.datastream.DataStream;
import org.apache.flink.streaming.api.environment.StreamExecutionEnvironment;

/** Submits the job, prints its id and does not wait for it. */
public final class Main {
  private static final long TIMEOUT_MILLIS = 10_000;

  public static void main(String[] args) throws Exception {
    ParameterTool p = ParameterTool.fromArgs(args);
    int records = p.getInt("records");
    int batch = p.getInt("batch");
    int width = p.getInt("width");
    double perSecond = p.getDouble("per-second");
    StreamExecutionEnvironment env = StreamExecutionEnvironment.createRemoteEnvironment(p.get("host"), p.getInt("port"));
    env.setParallelism(1);
    env.enableCheckpointing(p.getLong("checkpoint-millis"));
    // Else each record is copied between the operators of the chain.
    env.getConfig().enableObjectReuse();
    DataStream<Rows> rows =
        env.fromSource(
            new DataGeneratorSource<>(
                new Generator(batch, width, perSecond),
                records / batch,
                perSecond > 0 ? n -> new Pace(perSecond / batch) : RateLimiterStrategy.noOp(),
                TypeInformation.of(Rows.class)),
            WatermarkStrategy.noWatermarks(),
            "generate");
    AsyncDataStream.orderedWait(
            rows,
            new Infer(p.get("endpoint"), TIMEOUT_MILLIS),
            TIMEOUT_MILLIS,
            TimeUnit.MILLISECONDS,
            Math.max(1, p.getInt("capacity") / batch))
        .addSink(new Measure(records, p.getInt("warm"), width, p.get("sidecar-pid"), p.get("result")));
    System.out.println("job " + env.executeAsync("orderedWait").getJobID());
  }
}
