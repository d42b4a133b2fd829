package interop;

import java.util.LinkedHashMap;

/** What a step got: a JSON object. */
final class Got extends LinkedHashMap<String, Object> {
    private static final long serialVersionUID = 1;

    /** Names and values by turns; a value may be null. */
    static Got of(Object... pairs) {
        Got got = new Got();
        for (int i = 0; i < pairs.length; i += 2) {
            got.put((String) pairs[i], pairs[i + 1]);
        }
        return got;
    }
}
