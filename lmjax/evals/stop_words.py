"""English function words, for GPT-2's stop-word filter (Radford et al. 2019, section 3.3): they end no LAMBADA passage.

The paper says neither which words it leaves out nor how. This list is ours: what has a grammatical role and little
meaning of its own.
"""

WORDS = """
    a an the this that these those such same other another each every either neither both all any some few more most
    much many several enough no none own
    i me my mine myself we us our ours ourselves you your yours yourself yourselves he him his himself she her hers
    herself it its itself they them their theirs themselves one ones who whom whose which what whoever whatever
    someone somebody something anyone anybody anything everyone everybody everything nobody nothing
    am is are was were be been being have has had having do does did done doing will would shall should can could may
    might must ought cannot
    and or but nor so yet for if then than because as until while although though unless since whether when whenever
    where wherever why how
    of at by with about against between among into onto through during before after above below to from up down in out
    on off over under upon within without toward towards behind beyond beside besides along across around near per via
    not only just too very quite rather almost also even still again further once here there now never ever always
    often sometimes perhaps maybe however
"""
STOP_WORDS = frozenset(WORDS.split())
