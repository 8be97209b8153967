import java.io.IOException;
import java.io.PrintStream;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.StringJoiner;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.types.Row;
import org.apache.flink.util.CloseableIterator;

/**
 * Runs a file of Flink SQL in this JVM: Peer FILE OUTPUT NAME=VALUE…
 *
 * <p>Its statements are separated by lines that end with a semicolon; ${NAME} stands for a value. The rows of the last
 * one, a query whose rows are only ever added, go to OUTPUT as comma-separated values.
 */
public final class Peer {
    public static void main(String[] arguments) throws Exception {
        String text = Files.readString(Path.of(arguments[0]));
        for (int i = 2; i < arguments.length; i++) {
            String[] value = arguments[i].split("=", 2);
            text = text.replace("${" + value[0] + "}", value[1]);
        }
        String[] statements = text.split(";\\s*\\n");
        TableEnvironment environment = TableEnvironment.create(EnvironmentSettings.inStreamingMode());
        for (int i = 0; i < statements.length - 1; i++) {
            set(environment, statements[i]);
        }
        write(environment, statements[statements.length - 1], Path.of(arguments[1]));
        // Threads of the cluster may outlive their work.
        System.exit(0);
    }

    /** `SET 'key' = 'value'` is understood by Flink's shell only; everything else by the environment. */
    private static void set(TableEnvironment environment, String statement) {
        String bare = statement.replaceAll("(?m)^--.*$", "").strip();
        if (bare.startsWith("SET ")) {
            String[] parts = bare.split("'");
            environment.getConfig().set(parts[1], parts[3]);
        } else {
            environment.executeSql(bare);
        }
    }

    private static void write(TableEnvironment environment, String query, Path output) throws Exception {
        try (PrintStream out = new PrintStream(Files.newOutputStream(output));
                CloseableIterator<Row> rows = environment.executeSql(query.replaceAll("(?m)^--.*$", "").strip()).collect()) {
            while (rows.hasNext()) {
                Row row = rows.next();
                StringJoiner line = new StringJoiner(",");
                for (int i = 0; i < row.getArity(); i++) {
                    line.add(String.valueOf(row.getField(i)));
                }
                out.println(line);
            }
            if (out.checkError()) {
                throw new IOException("cannot write " + output);
            }
        }
    }
}
