import java.io.File;
import java.net.MalformedURLException;
import java.net.URL;
import java.net.URLClassLoader;

/**
 * The system class loader of Beam's job server, with the jars of the folder in the property "jars". It hides from the job server
 * that its classes come from jars. Otherwise the job server would upload all of them with every job, and the cluster, which has
 * them already, would need a quarter of a minute to store them. It has to be the system class loader, because Flink's client uses
 * that one to read the cluster's exceptions.
 */
public final class JobServer extends URLClassLoader {
  public JobServer(ClassLoader parent) throws MalformedURLException {
    super(jars(), parent);
  }

  private static URL[] jars() throws MalformedURLException {
    File[] files = new File(System.getProperty("jars")).listFiles((dir, name) -> name.endsWith(".jar"));
    URL[] jars = new URL[files.length];
    for (int i = 0; i < jars.length; i++) {
      jars[i] = files[i].toURI().toURL();
    }
    return jars;
  }

  @Override
  public URL[] getURLs() {
    return new URL[0];
  }
}
