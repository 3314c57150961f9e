"""A few lines of machine code, as ``cuobjdump -sass`` prints them."""

CODE = """
\t\tFunction : attend
\t.headerflags\t@"EF_CUDA_TEXMODE_UNIFIED EF_CUDA_64BIT_ADDRESS EF_CUDA_SM90"
        /*0000*/                   LDC R1, c[0x0][0x28] ;           /* 0x00000a00ff017b82 */
                                                                    /* 0x000fe20000000800 */
        /*0010*/                   I2F.RP R5, R6 ;                  /* 0x0000000600057306 */
        /*0020*/                   F2I.FTZ.U32.TRUNC.NTZ R5, R5 ;   /* 0x0000000500057305 */
        /*0030*/               @P1 EXIT ;                           /* 0x000000000000194d */
        /*0040*/                   LDG.E R4, desc[UR6][R2.64] ;     /* 0x0000000602047981 */
        /*0050*/                   HGMMA.64x32x16.F32.BF16 R24, R8, gdesc[UR4], R24 ;
        /*0060*/                   MUFU.EX2 R4, R4 ;                /* 0x0000000400047308 */
        /*0070*/                   IMAD.WIDE R2, R2, 0x2, R4 ;      /* 0x0000000202027825 */
        /*0080*/                   UIADD3 UR4, UR4, 0x1, URZ ;      /* 0x0000000104047890 */
        /*0090*/               @P0 BRA 0x60 ;                       /* 0xfffffffc00b80947 */
        /*00a0*/         @!P2 BRA.U UP0, 0x40 ;                     /* 0xfffffffc00b80947 */
        /*00b0*/                   SHFL.BFLY PT, R3, R4, 0x1, 0x1f ;
        /*00c0*/                   ISETP.NE.AND P0, PT, R8, RZ, PT ;
        /*00d0*/               @P0 BRA 0xc0 ;                       /* 0xfffffffc00b80947 */
        /*00e0*/               @P3 STG.E desc[UR6][R2.64], R4 ;     /* 0x0000000402007986 */
        /*00f0*/                   EXIT ;                           /* 0x000000000000794d */
        /*0100*/                   BRA 0x100;                       /* 0xfffffffc00fc7947 */
        /*0110*/                   NOP;                             /* 0x0000000000007918 */
"""
"""A loop from 0x40 to 0xa0 with another inside, from 0x60; then one from 0xc0 to 0xd0."""
